// Command halley is the one binary of Halley: the server as one process or as tiers, and the tools around it. It wires
// packages together and decides nothing that they could.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	// Authorities for outgoing TLS where the machine has none, as in an image from scratch.
	_ "golang.org/x/crypto/x509roots/fallback"
)

func main() {
	os.Exit(run(&program{
		args: os.Args[1:], environ: os.Environ(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, alone: true,
	}))
}

// program is what a command sees of the process it runs in.
type program struct {
	args    []string
	environ []string
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer

	alone bool // The process is the program's; in tests it is not.
}

// takeSlack is called first by commands that wake up for single frames; it may begin the program again.
func (p *program) takeSlack() {
	if p.alone {
		takeSlack(p.environ)
	}
}

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// errSilent ends the program with exitFailure where all that there is to say was said.
var errSilent = errors.New("told already")

// errRefused marks an error that ends the program with exitUsage, where exitFailure has a meaning of its own.
var errRefused = errors.New("refused")

// refusal is err with that mark, and with no other words.
type refusal struct{ error }

func (r refusal) Is(target error) bool { return target == errRefused }

func (r refusal) Unwrap() error { return r.error }

func refused(err error) error { return refusal{err} }

// run parses the command line and carries the command out.
func run(p *program) (code int) {
	// kong ends the process after --help; a panic caught here does that for tests as well as for main.
	type exit int
	defer func() {
		if e, ok := recover().(exit); ok {
			code = int(e)
		}
	}()
	parser := newParser(p, kong.Exit(func(code int) { panic(exit(code)) }))
	ctx, err := parser.Parse(normalize(p.args))
	if err != nil {
		p.complain("halley: %v\nhalley --help tells more.\n", err)
		return exitUsage
	}
	if err := ctx.Run(); err != nil {
		if !errors.Is(err, errSilent) {
			p.complain("halley: %v\n", err)
		}
		if errors.Is(err, errRefused) {
			return exitUsage
		}
		return exitFailure
	}
	return exitOK
}

func newParser(p *program, options ...kong.Option) *kong.Kong {
	parser, err := kong.New(&cli{}, append([]kong.Option{
		kong.Name("halley"),
		kong.Description("Instant messaging: connections, conversations and history.\n\nhalley serve runs everything here and now; comet, logic and job are its tiers, one process each."),
		kong.Writers(p.stdout, p.stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100, NoExpandSubcommands: true}),
		kong.Bind(p),
	}, options...)...)
	if err != nil {
		panic(err) // The grammar is wrong, whatever the user typed.
	}
	return parser
}

// complain writes to standard error; where that fails there is nobody left to tell.
func (p *program) complain(format string, args ...any) { _, _ = fmt.Fprintf(p.stderr, format, args...) }

// getenv returns the value of a variable, or nothing.
func (p *program) getenv(name string) string {
	for _, pair := range p.environ {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	return ""
}

// normalize lets -help be --help, and no command at all a call for help.
func normalize(args []string) []string {
	if len(args) == 0 {
		return []string{"--help"}
	}
	out := make([]string, len(args))
	for i, a := range args {
		if a == "--" {
			copy(out[i:], args[i:])
			break
		}
		if a == "-help" {
			a = "--help"
		}
		out[i] = a
	}
	return out
}
