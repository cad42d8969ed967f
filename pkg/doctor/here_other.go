//go:build !linux

package doctor

import (
	"math"
	"os"
)

// Here is a machine of which nothing is known: what Halley runs on in earnest is Linux.
func Here() (Machine, error) {
	return Machine{Root: os.DirFS("/"), Soft: math.MaxInt64, Hard: math.MaxInt64}, nil
}
