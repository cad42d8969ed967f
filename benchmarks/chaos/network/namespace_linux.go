package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// isolated tells the program that it runs in namespaces of its own.
const isolated = "CHAOS_NETWORK_ISOLATED"

// Isolated reports whether the program runs where Isolate put it.
func Isolated() bool { return os.Getenv(isolated) != "" }

// Isolate starts the program anew in a network and a mount namespace of its own: what it mounts and what it listens on is seen
// by nobody else, and is gone when the last of its processes is. There it returns at once. It must be called before anything
// else is begun.
func Isolate() error {
	if Isolated() {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	// Of the threads of a process, the one that calls exec is the one whose namespaces are kept.
	runtime.LockOSThread()
	if err := syscall.Unshare(syscall.CLONE_NEWNET | syscall.CLONE_NEWNS); err != nil {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}
	if err := loopback(); err != nil {
		return err
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
		if err := loopback(); err != nil {
			return nil, errors.Join(err, m.namespace.Close())
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

// ifreq is struct ifreq of netdevice(7).
type ifreq struct {
	name [syscall.IFNAMSIZ]byte
	data [24]byte
}

// on asks the kernel for something about a device.
func on(fd int, device string, request uintptr, data ...byte) error {
	var r ifreq
	copy(r.name[:], device)
	copy(r.data[:], data)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return fmt.Errorf("%s: ioctl %#x: %w", device, request, errno)
	}
	return nil
}

func native[T uint16 | uint32](v T) []byte {
	b, _ := binary.Append(nil, binary.NativeEndian, v) // Fixed sizes do not fail.
	return b
}

// internet is a struct sockaddr_in.
func internet(ip netip.Addr) []byte {
	return append(append(native(uint16(syscall.AF_INET)), 0, 0), ip.AsSlice()...)
}

// tun makes a device of network packets (Documentation/networking/tuntap.rst of the kernel).
func tun() (*os.File, error) {
	fd, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	if err := on(fd, wireName, syscall.TUNSETIFF, native(uint16(syscall.IFF_TUN|syscall.IFF_NO_PI))...); err != nil {
		return nil, errors.Join(err, syscall.Close(fd))
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// setUp gives the wire of the calling thread's namespace its address.
func setUp(ip netip.Addr) error {
	return configure(func(fd int) error {
		return errors.Join(
			on(fd, wireName, syscall.SIOCSIFADDR, internet(ip)...),
			on(fd, wireName, syscall.SIOCSIFNETMASK, internet(netip.AddrFrom4([4]byte{255, 255, 255, 0}))...),
			on(fd, wireName, syscall.SIOCSIFMTU, native(uint32(mtu))...),
			on(fd, wireName, syscall.SIOCSIFFLAGS, native(uint16(syscall.IFF_UP|syscall.IFF_RUNNING))...),
		)
	})
}

// loopback starts the one of the calling thread's namespace.
func loopback() error {
	return configure(func(fd int) error {
		return on(fd, "lo", syscall.SIOCSIFFLAGS, native(uint16(syscall.IFF_UP|syscall.IFF_RUNNING))...)
	})
}

// configure needs any socket of the namespace.
func configure(do func(fd int) error) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(do(fd), syscall.Close(fd))
}
