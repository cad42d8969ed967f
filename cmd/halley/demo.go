package main

import (
	"net/http"
	"time"

	"github.com/halley-im/halley/comet"
	"github.com/halley-im/halley/logic/api/demo"
	"github.com/halley-im/halley/pkg/app"
	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/ids"
	"github.com/halley-im/halley/protocol"
)

// demoTokenTTL is how long a token of the chat demo lasts; the page and the bot ask for a new one in time.
const demoTokenTTL = 15 * time.Minute

// demoStateName is the file in the data folder in which the echo bot notes what it has answered.
const demoStateName = "demo-echo.json"

// chatDemo is the page in which two people and a bot talk. It hands out tokens without asking who is there, so it exists only
// in a serve that no other machine can reach.
type chatDemo struct {
	page http.Handler
	bot  *demo.Bot
}

func newChatDemo(p *process, data *dataDir, secrets *secrets, connections *comet.Comet) *chatDemo {
	if !allLoopback(p.addresses()) || p.settings.Comet.WebSocketAddress == "" {
		return nil
	}
	issue := func(user, device string) (string, error) {
		now := time.Now()
		return auth.Issue(secrets.keys[0], auth.Claims{
			App: protocol.DefaultApp, User: user, Device: device, TokenID: ids.NewClientID(), Audience: p.settings.Auth.Audience,
			IssuedAt: now, Expires: now.Add(demoTokenTTL),
		})
	}
	url := func() string { return "ws://" + local(connections.Addr("websocket")) + "/v1/connect" }
	return &chatDemo{
		page: demo.New(demo.Config{Issue: issue, WebSocketURL: func(*http.Request) string { return url() }, Logger: p.log}),
		bot:  demo.NewBot(demo.BotConfig{URL: url, Issue: issue, StateFile: data.file(demoStateName), Logger: p.log}),
	}
}

// handler is what the API serves below /demo/; nil where there is no demo.
func (d *chatDemo) handler() http.Handler {
	if d == nil {
		return nil
	}
	return d.page
}

// add starts the bot, after all that it talks to.
func (d *chatDemo) add(p *process) {
	if d != nil {
		p.add(app.Component{Name: "echo bot", Run: d.bot.Run})
	}
}
