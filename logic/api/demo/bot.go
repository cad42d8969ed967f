package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/halley-im/halley/pkg/client"
	"github.com/halley-im/halley/protocol"
)

// BotUser is whom people write to when they want an answer.
const BotUser = "echo"

const (
	// A retry is the same message only on the same device.
	botDevice = "bot"
	// The tick that says "read" is worth no more waiting than this.
	readWithin = 2 * time.Second
	// Between tries to put an answer into the state file.
	storeAgain = time.Second
)

// BotConfig is what the echo bot needs.
type BotConfig struct {
	// URL is where the bot connects, as client.Options.URL; it is asked when Run begins.
	URL func() string
	// Issue makes a token, as Config.Issue does.
	Issue func(user, device string) (token string, err error)
	// StateFile keeps what the bot has answered. It must live and die with the conversations: without it the bot would
	// answer them all again.
	StateFile string
	Logger    *slog.Logger
}

// Bot answers every text of a 1:1 conversation with the same text, once, over restarts of either side.
type Bot struct{ cfg BotConfig }

// NewBot makes the bot. Nothing is started.
func NewBot(cfg BotConfig) *Bot { return &Bot{cfg: cfg} }

// Run answers until ctx ends. A bot that the server sent away for good stays away, and Run waits: that is no fault of the
// process it runs in.
func (b *Bot) Run(ctx context.Context) error {
	notes, err := openNotebook(b.cfg.StateFile)
	if err != nil {
		return fmt.Errorf("echo bot: %w", err)
	}
	var c *client.Client
	c, err = client.New(client.Options{
		URL: b.cfg.URL(), Name: "halley-demo-echo", Start: client.StartAtJoin, Store: notes, Logger: b.cfg.Logger.With("bot", BotUser),
		Token: func(context.Context) (string, error) { return b.cfg.Issue(BotUser, botDevice) },
		Handler: func(e client.Event) {
			if r, ok := e.(client.Record); ok {
				b.answer(ctx, c, notes, r)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("echo bot: %w", err)
	}
	if err := c.Run(ctx); ctx.Err() == nil {
		b.cfg.Logger.Warn("the echo bot has left; it comes back with the next start", "err", err)
		<-ctx.Done()
	}
	return nil
}

// answer takes one record after the other: while it waits, further ones wait on the server.
func (b *Bot) answer(ctx context.Context, c *client.Client, notes *notebook, r client.Record) {
	text := r.GetMessage().GetText().GetText()
	if text == "" || r.Sender == BotUser || protocol.KindOf(r.Conversation) != protocol.KindDirect {
		return
	}
	reading, cancel := context.WithTimeout(ctx, readWithin)
	if _, err := c.MarkRead(reading, r.Conversation, r.Seq); err != nil {
		b.cfg.Logger.Debug("echo bot: not marked as read", "conversation", r.Conversation, "err", err)
	}
	cancel()
	notes.begin(r.Conversation, r.Seq)
	defer notes.end()
	for {
		p, err := c.SendAsync(r.Conversation, client.Text(text))
		if err == nil {
			_, err = p.Wait(ctx)
		}
		var refusal *protocol.Error
		switch {
		case err == nil, ctx.Err() != nil, errors.Is(err, client.ErrStopped):
			return
		case errors.As(err, &refusal):
			b.cfg.Logger.Warn("echo bot: an answer was refused", "conversation", r.Conversation, "seq", r.Seq, "err", refusal)
			return
		}
		b.cfg.Logger.Warn("echo bot: an answer waits", "conversation", r.Conversation, "seq", r.Seq, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(storeAgain):
		}
	}
}
