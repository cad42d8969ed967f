package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/halley-im/halley/pkg/client"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
)

const (
	fleetUsers = 8
	// window is how many messages a device has on their way in one conversation.
	window = 8
	// pageRecords is the most that the server gives at once.
	pageRecords = 200
)

// room is a conversation and its members.
type room struct {
	id      string
	members []string
}

// lane is one device's sending in one conversation.
type lane struct {
	user, conversation string
	sent               int
}

// fleet is devices outside the machine.
type fleet struct {
	ledger *ledger
	name   string // Begins every text of the run.

	users   []string
	devices map[string]*client.Client
	rooms   []room
	lanes   []*lane

	end     context.CancelFunc
	running sync.WaitGroup
}

// launch connects one device for each user and opens their conversations.
func launch(ctx context.Context, server, name string, token func(user string) (string, error)) (*fleet, error) {
	f := &fleet{ledger: newLedger(), name: name, devices: map[string]*client.Client{}}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	f.end = end
	for i := range fleetUsers {
		user := fmt.Sprintf("user%d", i)
		device, err := client.New(client.Options{
			URL: server, Name: "power", Start: client.StartAtJoin, Limits: client.Limits{BackOffMost: 2 * time.Second},
			Token: func(context.Context) (string, error) { return token(user) },
			Handler: func(e client.Event) {
				if r, ok := e.(client.Record); ok && protocol.KindOf(r.Conversation) != protocol.KindUser {
					f.ledger.show(place{user, r.Conversation}, r.Seq, r.Id)
				}
			},
		})
		if err != nil {
			f.close()
			return nil, err
		}
		f.users = append(f.users, user)
		f.devices[user] = device
		f.running.Go(func() {
			if err := device.Run(life); life.Err() == nil {
				f.ledger.violation("%s was told never to come back: %v", user, err)
			}
		})
	}
	if err := f.open(ctx); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *fleet) book() *ledger { return f.ledger }

func (f *fleet) close() {
	f.end()
	f.running.Wait()
}

// open makes the conversations: pairs, half of the users, all of them.
func (f *fleet) open(ctx context.Context) error {
	for i := 0; i+1 < len(f.users); i += 2 {
		f.enter(protocol.Direct(f.users[i], f.users[i+1]), f.users[i:i+2])
	}
	for _, members := range [][]string{f.users[:len(f.users)/2], f.users} {
		ack, err := f.devices[members[0]].CreateGroup(ctx, f.name, members[1:]...)
		if err != nil {
			return fmt.Errorf("create a group: %w", err)
		}
		f.enter(ack.Conversation, members)
	}
	return nil
}

func (f *fleet) enter(conversation string, members []string) {
	f.rooms = append(f.rooms, room{conversation, members})
	for _, user := range members {
		f.lanes = append(f.lanes, &lane{user: user, conversation: conversation})
	}
}

// talk sends in all lanes until talking ends, then waits for the answers as long as settling lasts. Nobody here sends what a
// server may refuse, so a refusal is a violation, and so is silence.
func (f *fleet) talk(talking, settling context.Context) {
	var all sync.WaitGroup
	for _, l := range f.lanes {
		all.Go(func() { f.send(talking, settling, l) })
	}
	all.Wait()
}

// underway is a message without an answer.
type underway struct {
	text    string
	pending *client.Pending
}

func (f *fleet) send(talking, settling context.Context, l *lane) {
	open := make(chan underway, window)
	var answers sync.WaitGroup
	answers.Go(func() {
		for u := range open {
			f.answer(settling, u)
		}
	})
	for talking.Err() == nil {
		l.sent++
		text := fmt.Sprintf("%s %s %s %d", f.name, l.user, l.conversation, l.sent)
		f.ledger.sends(text, message{conversation: l.conversation, sender: l.user, number: l.sent})
		pending, err := f.devices[l.user].SendAsync(l.conversation, client.Text(text))
		if err != nil {
			f.ledger.violation("%q was not taken: %v", text, err)
			break
		}
		select {
		case open <- underway{text, pending}:
		case <-settling.Done():
		}
	}
	close(open)
	answers.Wait()
}

func (f *fleet) answer(settling context.Context, u underway) {
	ack, err := u.pending.Wait(settling)
	switch {
	case err == nil:
		f.ledger.ack(u.text, ack.Seq, ack.Id)
	case settling.Err() != nil:
		f.ledger.violation("%q has no answer", u.text)
	default:
		f.ledger.violation("%q was refused: %v", u.text, err)
	}
}

// audit reads every conversation from its first record.
func (f *fleet) audit(ctx context.Context) (heads map[string]uint64, err error) {
	heads = map[string]uint64{}
	for _, r := range f.rooms {
		history, err := f.read(ctx, r)
		if err != nil {
			return nil, fmt.Errorf("history of %s: %w", r.id, err)
		}
		f.ledger.judge(r.id, history)
		heads[r.id] = uint64(len(history))
	}
	return heads, nil
}

func (f *fleet) read(ctx context.Context, r room) ([]record, error) {
	reader := f.devices[r.members[0]]
	var history []record
	for after := uint64(0); ; after = history[len(history)-1].seq {
		page, err := reader.History(ctx, r.id, &conversationv1.HistoryRequest{AfterSeq: after, Limit: pageRecords})
		if err != nil {
			return nil, err
		}
		for _, one := range page.Records {
			history = append(history, record{
				seq: one.Seq, id: one.Id, sender: one.Sender, text: one.GetMessage().GetText().GetText(),
			})
		}
		if !page.More {
			return history, nil
		}
		if len(page.Records) == 0 || page.Records[0].Seq <= after {
			return nil, errors.New("more is promised, and nothing comes")
		}
	}
}

// complete waits until every device was shown everything up to the heads; what is missing when ctx ends is a violation.
func (f *fleet) complete(ctx context.Context, heads map[string]uint64) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, r := range f.rooms {
		for _, user := range r.members {
			at := place{user, r.id}
			for f.ledger.stands(at) < heads[r.id] && ctx.Err() == nil {
				select {
				case <-ctx.Done():
				case <-tick.C:
				}
			}
			if stands := f.ledger.stands(at); stands < heads[r.id] {
				f.ledger.violation("%s was shown %d of %d records of %s", user, stands, heads[r.id], r.id)
			}
		}
	}
}
