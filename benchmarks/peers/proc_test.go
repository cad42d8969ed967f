package main

import (
	"os"
	"os/exec"
	"slices"
	"testing"
)

func TestStatIsReadWhateverTheName(t *testing.T) {
	const line = "4242 (beam) smp (x) S 17 4242 4242 0 -1 4194560 900 10 0 0 150 50 7 3 20 0 5 0 1234 99000000 2560 18446744073709551615 1 1 0\n"
	p, err := parseStat(line)
	if want := (process{pid: 4242, parent: 17, ticks: 210, pages: 2560}); err != nil || p != want {
		t.Errorf("%+v, %v; want %+v", p, err, want)
	}
	for _, bad := range []string{"", "1 name S 1", "1 (short) S 1 2 3", "x (name) S 1 1 1 0 -1 1 1 1 0 0 1 1 1 1 20 0 1 0 1 1 1 1"} {
		if p, err := parseStat(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, p)
		}
	}
}

func TestAFamilyIsAllBelow(t *testing.T) {
	all := []process{{pid: 30, parent: 20}, {pid: 20, parent: 10}, {pid: 10, parent: 1}, {pid: 40, parent: 1}}
	var pids []int
	for _, p := range family(all, 10) {
		pids = append(pids, p.pid)
	}
	if want := []int{30, 20, 10}; !slices.Equal(pids, want) {
		t.Errorf("%v, want %v", pids, want)
	}
}

func TestWhatProcessesHold(t *testing.T) {
	child := exec.CommandContext(t.Context(), "cat")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	with, err := spentBy(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	alone, err := spentBy(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	in.Close()
	child.Wait()
	if alone.resident <= 0 || with.resident <= alone.resident {
		t.Errorf("a child holds %v bytes, its parent with it %v", alone.resident, with.resident)
	}
	if _, err := spentBy(child.Process.Pid); err == nil {
		t.Error("a process that has ended has a usage")
	}
}

func TestCoresOfTheKernelsLists(t *testing.T) {
	if got, err := parseCores("0-2,5,7-8\n"); err != nil || !slices.Equal(got, []int{0, 1, 2, 5, 7, 8}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := parseCores("a-b"); err == nil {
		t.Errorf("read as %v", got)
	}
}
