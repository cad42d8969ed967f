package comet

import "time"

// drain sends the sessions away: the one sequence that ends a node. Each session is told when to come back, each at another
// time, and closed at a bounded rate; devices that connect meanwhile are told the same. It returns when no connection is
// left or the time is up.
func (c *Comet) drain() {
	deadline := time.Now().Add(ms(c.cfg.DrainNoticeMs) + ms(c.cfg.DrainTimeoutMs))
	c.log.Info("draining", "connections", c.connections.Load())
	c.farewell.leave(ms(c.cfg.DrainTimeoutMs))
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	// Without a connection the notice is waited for all the same: balancers notice in their own time.
	for (c.connections.Load() > 0 || !c.refusing.Load()) && time.Now().Before(deadline) {
		<-poll.C
	}
	if left := c.connections.Load(); left > 0 {
		c.log.Warn("drain timed out; closing what is left", "connections", left)
	}
}

const drainPoll = 5 * time.Millisecond
