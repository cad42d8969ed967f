package loop

// soReusePort is SO_REUSEPORT; package syscall lacks it on some architectures.
const soReusePort = 0xf
