package mistakes

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/overlay"
)

// Where the product moves on, so must its mistakes; and each must be a program.
func TestMistakesFitTheProduct(t *testing.T) {
	builds := append([]Mistake{{"none, but slow", Slow}}, All...)
	for _, m := range builds {
		for _, slow := range []time.Duration{0, time.Second} {
			list, err := overlay.Write("../..", t.TempDir(), m.Patches(slow)...)
			if err != nil {
				t.Errorf("%s: %v", m.Name, err)
				continue
			}
			cmd := exec.CommandContext(t.Context(), "go", "build", "-overlay", list, "-o", os.DevNull, "./logic/partition", "./job/history")
			cmd.Dir = "../.."
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", m.Name, err, out)
			}
		}
	}
}
