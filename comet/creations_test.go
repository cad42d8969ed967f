package comet

import (
	"fmt"
	"testing"
	"time"

	"github.com/halley-im/halley/protocol"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestAMinutesGroupsMayComeAtOnceAndThenOneByOne(t *testing.T) {
	c := newCreations(6)
	for i := range 6 {
		if err := c.allow("main", "alice", noon); err != nil {
			t.Fatalf("group %d: %v", i, err)
		}
	}
	err := c.allow("main", "alice", noon)
	if err == nil || err.Code != protocol.CodeRateLimited || err.RetryAfter != 10*time.Second {
		t.Fatalf("the seventh: %+v", err)
	}
	if err := c.allow("main", "bob", noon); err != nil {
		t.Errorf("another user: %v", err)
	}
	if err := c.allow("rival", "alice", noon); err != nil {
		t.Errorf("the same name in another app: %v", err)
	}
	if err := c.allow("main", "alice", noon.Add(err.RetryAfter-time.Nanosecond)); err == nil {
		t.Error("sooner than it was told")
	}
	later := noon.Add(err.RetryAfter)
	if err := c.allow("main", "alice", later); err != nil {
		t.Errorf("when it was told: %v", err)
	}
	if err := c.allow("main", "alice", later); err == nil {
		t.Error("one more, at once")
	}
}

func TestNoLimitOnGroupsRemembersNobody(t *testing.T) {
	c := newCreations(0)
	for range 1000 {
		if err := c.allow("main", "alice", noon); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.users) != 0 {
		t.Errorf("%d users are remembered", len(c.users))
	}
}

func TestUsersWhoMadeGroupsAreForgottenAndBounded(t *testing.T) {
	c := newCreations(60)
	for i := range 10_000 { // One a second: each is past a second later.
		if err := c.allow("main", fmt.Sprint("user", i), noon.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.users) > minCreators {
		t.Errorf("%d users are remembered", len(c.users))
	}
	refused := 0
	for i := range maxCreators + 100 { // All in one moment.
		if err := c.allow("main", fmt.Sprint("other", i), noon.Add(24*time.Hour)); err != nil {
			if err.Code != protocol.CodeBusy {
				t.Fatal(err)
			}
			refused++
		}
	}
	if len(c.users) != maxCreators || refused != 100 {
		t.Errorf("%d users are remembered, %d were refused", len(c.users), refused)
	}
	if err := c.allow("main", "other0", noon.Add(24*time.Hour)); err != nil {
		t.Errorf("a user who is remembered: %v", err)
	}
	if err := c.allow("main", "late", noon.Add(25*time.Hour)); err != nil || len(c.users) != 1 {
		t.Errorf("an hour later: %v, %d are remembered", err, len(c.users))
	}
}
