#!/usr/bin/env bash
# A small virtual machine for what a process here cannot be put through: the loss of power, a million descriptors.
#   vm.sh fetch                   installs qemu and busybox, fetches a Debian cloud kernel into the cache
#   vm.sh start                   boots: VM_ROOT lies over the guest's root, its disk is mounted on /data, /main is run
#   vm.sh cut                     SIGKILL: what the guest wrote and did not sync is gone, what it synced is on the disk
#   vm.sh status|log              its pid / what it wrote to its console since it booted last
#   vm.sh wipe                    cuts; deletes disk and console
# Programs in VM_ROOT must be static. The guest is emulated unless VM_ACCEL=kvm, so times in it mean nothing.
# Settings (environment), the same for every call:
#   VM_ROOT=DIR  VM_PORTS="18071:7071 ..." (of loopback here : of the guest)  VM_DATA=$SERVICES_DIR/vm
#   VM_REACHES=1: what listens on loopback here the guest finds at 10.0.2.2; otherwise it reaches nothing outside
#   VM_MEM=1024  VM_CPUS=2  VM_DISK=4G  VM_ACCEL=tcg,thread=multi  VM_BOOT_SECONDS=300
#   VM_CPU=max,...: what an emulated processor is good at; with VM_ACCEL=kvm take host
set -euo pipefail
VM="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$VM/../local/lib.sh"

# An emulated processor copies byte by byte what a real one does with one instruction, and vectors with a call for each.
CPU="${VM_CPU:-max,la57=off,erms=off,fsrm=off,smap=off,smep=off,avx=off,avx2=off}"
DATA="${VM_DATA:-$SERVICES_DIR/vm}"
PIDFILE="$DATA/pid"
DISK="$DATA/disk.img"
CONSOLE="$DATA/console.log"
KERNELS="$SERVICES_CACHE/kernels"
# The guest's disk, file system and network card; what is built into the kernel costs nothing here.
MODULES=(virtio_pci virtio_blk ext4 virtio_net)

# kernel: the newest version that was fetched.
kernel() {
  local k
  k="$(find "$KERNELS"/*/lib/modules -mindepth 1 -maxdepth 1 -printf '%f\n' 2>/dev/null | sort -V | tail -n 1)"
  [ -n "$k" ] && echo "$k"
}

# The kernel is unpacked beside the machine's own, not installed: nothing here shall boot from it.
fetch_kernel() {
  local package version tmp
  package="$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" {print $2; exit}')"
  [ -n "$package" ] || die "apt knows no linux-image-cloud-amd64: apt-get update, on Debian amd64"
  tmp="$(mktemp -d "$SERVICES_CACHE/kernel.XXXXXX")"
  (cd "$tmp" && apt-get -qq -o APT::Sandbox::User=root download "$package" && dpkg-deb -x ./*.deb root)
  version="$(ls "$tmp/root/lib/modules")"
  depmod -b "$tmp/root" "$version"
  mkdir -p "$KERNELS"
  mv -T "$tmp/root" "$KERNELS/$version"
  rm -rf "$tmp"
}

fetch() {
  "$HERE/install.sh" vm
  kernel >/dev/null || fetch_kernel
}

# initramfs writes the guest's whole file system: busybox, the modules, init, and VM_ROOT over it.
initramfs() {
  local root="$DATA/root" k from m f
  k="$(kernel)"
  from="$KERNELS/$k"
  rm -rf "$root"
  mkdir -p "$root"/{bin,proc,sys,dev,tmp,data,etc,modules}
  cp "$(command -v busybox)" "$root/bin/busybox"
  cp "$VM/init" "$root/init"
  for m in "${MODULES[@]}"; do
    modprobe -d "$from" -S "$k" --show-depends "$m" | awk '$1 == "insmod" {print $2}'
  done | awk '!seen[$0]++' | while read -r f; do
    cp "$f" "$root/modules/"
    basename "$f" >>"$root/modules/order"
  done
  cp -R "${VM_ROOT:?}/." "$root/"
  (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$DATA/initrd.new"
  mv "$DATA/initrd.new" "$DATA/initrd.gz"
  rm -rf "$root"
}

# fresh: the guest's file system is what it was made of; what has not changed is not packed again at each boot.
fresh() { [ -s "$DATA/initrd.gz" ] && [ -z "$(find "${VM_ROOT:?}" "$VM" "$KERNELS" -newer "$DATA/initrd.gz" -print -quit)" ]; }

booted() { grep -qa 'guest: up' "$CONSOLE"; }

start() {
  local k net="user,model=virtio-net-pci" p
  [ -n "${VM_REACHES:-}" ] || net+=",restrict=on"
  ! pid_of "$PIDFILE" "$DISK" >/dev/null || return 0
  k="$(kernel)" || die "no kernel: $0 fetch"
  mkdir -p "$DATA"
  fresh || initramfs
  if [ ! -e "$DISK" ]; then
    truncate -s "${VM_DISK:-4G}" "$DISK.new"
    mkfs.ext4 -q -F "$DISK.new"
    mv "$DISK.new" "$DISK"
  fi
  for p in ${VM_PORTS:-}; do net+=",hostfwd=tcp:127.0.0.1:${p%%:*}-:${p##*:}"; done
  : >"$CONSOLE"
  # tsc: any other clock is a device, and emulated, and everything reads the clock.
  # mitigations: nobody else is on its processor, and with them each system call would throw away all that was looked up in page tables.
  # writeback: the guest's disk has a cache, and a flush by the guest is one of the file here.
  spawn "$PIDFILE" "$DATA/qemu.log" qemu-system-x86_64 -accel "${VM_ACCEL:-tcg,thread=multi}" -cpu "$CPU" \
    -m "${VM_MEM:-1024}" -smp "${VM_CPUS:-2}" -kernel "$KERNELS/$k/boot/vmlinuz-$k" -initrd "$DATA/initrd.gz" \
    -append "console=ttyS0 quiet panic=-1 tsc=reliable clocksource=tsc mitigations=off init_on_alloc=0 hardened_usercopy=off" -display none -monitor none -serial "file:$CONSOLE" -no-reboot \
    -drive "file=$DISK,format=raw,if=virtio,cache=writeback" -nic "$net"
  wait_for "${VM_BOOT_SECONDS:-300}" booted || {
    tail -n 5 "$CONSOLE" "$DATA/qemu.log" >&2
    die "the guest does not boot"
  }
  say "$(grep -a 'guest: up' "$CONSOLE" | tr -d '\r')"
}

case "${1:-}" in
  fetch) fetch ;;
  start) start ;;
  cut)
    stop_pid "$PIDFILE" "$DISK" KILL 10
    say cut
    ;;
  status) pid_of "$PIDFILE" "$DISK" ;;
  log) cat "$CONSOLE" ;;
  wipe)
    stop_pid "$PIDFILE" "$DISK" KILL 10
    rm -rf "$DATA"
    say wiped
    ;;
  *) usage ;;
esac
