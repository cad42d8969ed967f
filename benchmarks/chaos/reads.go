package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/halley-im/halley/benchmarks/oracle"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
)

// How heads and history are read while the system is hurt. What was told, and when, must fit into one order with all writes.
const (
	serverReaders = 4
	serverPause   = 200 * time.Millisecond // Most, between two reads of one reader.
	devicePause   = 1500 * time.Millisecond
	deviceReads   = 4 // Conversations, at most, in one request of a device.
	pageEach      = 4 // One page of history in so many reads of a device.
	readWithin    = 3 * time.Second
)

// appServer is the app's server, which reads over HTTP.
type appServer struct {
	mu    sync.Mutex
	reads map[string][]oracle.Read // guarded by mu
}

func (s *appServer) of(conversation string) []oracle.Read {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads[conversation]
}

func (s *appServer) note(conversation string, r oracle.Read) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reads == nil {
		s.reads = map[string][]oracle.Read{}
	}
	s.reads[conversation] = append(s.reads[conversation], r)
}

// read has devices and the app's server read until ctx ends.
func (f *fleet) read(ctx context.Context, a *api) {
	var wg sync.WaitGroup
	for i, d := range f.devices {
		mine := f.of[d.user]
		if len(mine) == 0 {
			continue
		}
		r := rand.New(rand.NewPCG(f.seed, 30_000+uint64(i)))
		wg.Go(func() {
			for sleep(ctx, time.Duration(r.Int64N(int64(devicePause)))) {
				if r.IntN(pageEach) == 0 {
					d.readPage(ctx, r, mine[r.IntN(len(mine))])
				} else {
					d.readHeads(ctx, r, mine)
				}
			}
		})
	}
	ids := f.conversations()
	for i := range serverReaders {
		r := rand.New(rand.NewPCG(f.seed, 40_000+uint64(i)))
		wg.Go(func() {
			for sleep(ctx, time.Duration(r.Int64N(int64(serverPause)))) {
				f.readOver(ctx, a, a.hosts[r.IntN(len(a.hosts))], ids[r.IntN(len(ids))])
			}
		})
	}
	wg.Wait()
}

// readHeads asks for some of the device's conversations. One that the answer leaves out is not there for this user.
func (d *device) readHeads(ctx context.Context, r *rand.Rand, mine []string) {
	ids := make([]string, 0, deviceReads)
	for _, i := range r.Perm(len(mine))[:min(deviceReads, len(mine))] {
		ids = append(ids, mine[i])
	}
	d.writing.Lock()
	c := d.client
	d.writing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	asked := d.now()
	heads, err := c.Heads(ctx, ids...)
	told := d.now()
	if err != nil {
		return
	}
	seqs := map[string]uint64{}
	for _, h := range heads {
		seqs[h.Conversation] = h.Seq
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		d.reads[id] = append(d.reads[id], oracle.Read{By: d.name, User: d.user, Head: seqs[id], Asked: asked, Told: told})
	}
}

// readPage asks for a page of history from anywhere in a conversation.
func (d *device) readPage(ctx context.Context, r *rand.Rand, conversation string) {
	d.mu.Lock()
	q := &conversationv1.HistoryRequest{AfterSeq: uint64(r.IntN(len(d.shown[conversation]) + 1)), Limit: 20}
	d.mu.Unlock()
	d.writing.Lock()
	c := d.client
	d.writing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	asked := d.now()
	page, err := c.History(ctx, conversation, q)
	told := d.now()
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads[conversation] = append(d.reads[conversation], oracle.Read{By: d.name, User: d.user, Head: page.HeadSeq, Asked: asked, Told: told})
	for _, record := range page.Records {
		d.paged[conversation] = append(d.paged[conversation], shownOf(record))
	}
}

// readOver asks one node, once: what is not answered is no read.
func (f *fleet) readOver(ctx context.Context, a *api, host, conversation string) {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	asked := time.Since(f.began)
	head, err := a.head(ctx, host, conversation)
	told := time.Since(f.began)
	if err == nil {
		f.server.note(conversation, oracle.Read{By: "the app's server at " + host, Head: head, Asked: asked, Told: told})
	}
}

// head is where a conversation ends, by the word of one node; 0: it is not there.
func (a *api) head(ctx context.Context, host, conversation string) (uint64, error) {
	var page struct {
		HeadSeq uint64 `json:"head_seq"`
	}
	status, err := a.ask(ctx, host, "/v1/conversations/"+url.PathEscape(conversation)+"/records?limit=1", &page)
	if status == http.StatusNotFound {
		return 0, nil
	}
	return page.HeadSeq, err
}
