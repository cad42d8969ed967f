package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"unsafe"
)

// isolated tells the program that it runs in namespaces of its own.
const isolated = "CHAOS_NETWORK_ISOLATED"

// Isolate starts the program anew in a network and a mount namespace of its own: what it mounts and what it listens on is seen
// by nobody else, and is gone when the last of its processes is. There it returns at once. It must be called before anything
// else is begun.
func Isolate() error {
	if os.Getenv(isolated) != "" {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	// Of the threads of a process, the one that calls exec is the one whose namespaces are kept.
	runtime.LockOSThread()
	if err := syscall.Unshare(syscall.CLONE_NEWNET | syscall.CLONE_NEWNS); err != nil {
		return fmt.Errorf("a network of its own needs root, or `unshare -r`: %w", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}
	return syscall.Exec(program, os.Args, append(os.Environ(), isolated+"=1"))
}

// open makes a member's namespace, and the wire into it.
func open(name string, ip netip.Addr) (m *member, err error) {
	done := make(chan struct{})
	go func() { // open waits for it.
		defer close(done)
		// Never unlocked: the thread lies in the namespace and ends with this goroutine.
		runtime.LockOSThread()
		m, err = openHere(name, ip)
	}()
	<-done
	return m, err
}

// openHere runs on a thread that is thrown away.
func openHere(name string, ip netip.Addr) (*member, error) {
	m := &member{name: name, ip: ip}
	if name != Self {
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			return nil, err
		}
		var err error
		if m.namespace, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return nil, err
		}
	}
	wire, err := tun()
	if err == nil {
		m.device = wire
		err = setUp(ip)
	}
	if err != nil {
		if m.namespace != nil {
			_ = m.namespace.Close()
		}
		if wire != nil {
			_ = wire.Close()
		}
		return nil, err
	}
	return m, nil
}

// wireName is the device's in every namespace.
const wireName = "wire"

// tun makes a device of network packets (Documentation/networking/tuntap.rst of the kernel).
func tun() (*os.File, error) {
	fd, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	request := struct { // struct ifreq
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{flags: syscall.IFF_TUN | syscall.IFF_NO_PI}
	copy(request.name[:], wireName)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TUNSETIFF, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return nil, errors.Join(fmt.Errorf("TUNSETIFF: %w", errno), syscall.Close(fd))
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// setUp gives the devices of the calling thread's namespace their addresses.
func setUp(ip netip.Addr) error {
	cmd := exec.Command("ip", "-batch", "-") //nolint:noctx // it ends by itself.
	cmd.Stdin = strings.NewReader(fmt.Sprintf("link set lo up\naddr add %s/24 dev %s\nlink set %s mtu %d up\n", ip, wireName, wireName, mtu))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
