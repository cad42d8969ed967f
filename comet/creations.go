package comet

import (
	"strings"
	"sync"
	"time"

	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
)

// creations bounds how many groups a user makes through this node. A group of a thousand members is a thousand records of users'
// own logs, which no limit on frames would hold back. A user is remembered for as long as it has made groups too fast to be
// forgotten, whatever becomes of its sessions: so to connect again is no way around.
type creations struct {
	perMinute int // 0: no limit

	mu    sync.Mutex
	users map[presence.User]time.Time // when the user will have all of its groups to make again
	next  int                         // size at which those who are past are forgotten
}

// maxCreators bounds the users who are remembered; a node that has so many makes nobody wait for another's sake for long.
const maxCreators = 1 << 16

func newCreations(perMinute int) *creations {
	return &creations{perMinute: perMinute, users: make(map[presence.User]time.Time), next: minCreators}
}

// minCreators keeps a quiet node from looking for users to forget.
const minCreators = 64

// allow counts a group of the user's. A minute's worth may come at once; then one for each part of a minute (the generic cell
// rate algorithm, ITU-T I.371).
func (c *creations) allow(app, user string, now time.Time) *protocol.Error {
	if c.perMinute == 0 {
		return nil
	}
	each := time.Minute / time.Duration(c.perMinute)
	c.mu.Lock()
	defer c.mu.Unlock()
	whole, known := c.users[presence.User{App: app, User: user}]
	if whole.Before(now) {
		whole = now
	}
	if wait := whole.Add(each).Sub(now) - time.Minute; wait > 0 {
		return &protocol.Error{
			Code: protocol.CodeRateLimited, Message: "more groups than a user may make in a minute", RetryAfter: max(wait, time.Millisecond),
		}
	}
	if !known && !c.room(now) {
		return protocol.Errorf(protocol.CodeBusy, "too many users make groups here")
	}
	// The session's names go with the session.
	c.users[presence.User{App: strings.Clone(app), User: strings.Clone(user)}] = whole.Add(each)
	return nil
}

// room forgets users whose time is past whenever there are twice as many as it left the last time, and reports whether one more
// may be remembered.
func (c *creations) room(now time.Time) bool {
	if len(c.users) < c.next {
		return true
	}
	for user, whole := range c.users {
		if !whole.After(now) {
			delete(c.users, user)
		}
	}
	c.next = min(max(2*len(c.users), minCreators), maxCreators)
	return len(c.users) < maxCreators
}
