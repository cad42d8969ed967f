package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/logic"
	"github.com/halley-im/halley/logic/api"
	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/pkg/presence/memory"
	"github.com/halley-im/halley/pkg/store/pebble"
	"github.com/halley-im/halley/protocol"
)

// server is the API in front of a real logic node.
type server struct {
	t      *testing.T
	url    string
	secret string
	keys   *auth.Keys
	kicked chan link.Delivery
}

// kickable is a comet of which only the closes matter.
type kickable struct{ closes chan link.Delivery }

func (k kickable) Lost() {}

func (k kickable) LostTo(link.Users) {}

func (k kickable) Deliver(b *link.Batch) {
	for _, d := range b.Deliveries {
		if d.Close != 0 {
			k.closes <- d
		}
	}
}

func start(t *testing.T) *server {
	t.Helper()
	const partitions = 2
	log := slog.New(slog.DiscardHandler)
	conn := bustest.Open(t, bus.Config{Embedded: bustest.StartEmbedded(t)})
	if err := bus.CreateLogs(t.Context(), conn, bus.LogConfig{Partitions: partitions, Replicas: 1, MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	st, err := pebble.Open(t.TempDir(), pebble.Default(), log)
	if err != nil {
		t.Fatal(err)
	}
	inside := link.NewLocal(partitions)
	caller := logic.NewCaller("caller", inside)
	inside.Register("caller", caller)
	who := memory.New(time.Now)
	l, err := logic.New(logic.Default(), logic.Deps{
		Node: "n1", Log: conn, Bus: conn, Store: st, Presence: who, Sender: inside, Caller: caller,
		Attach: func(p int, epoch uint64, in link.Inbox) (func(), error) { return inside.Attach(p, epoch, in), nil },
		Logger: log, Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	epoch, err := who.Acquire(t.Context(), "comet")
	if err != nil {
		t.Fatal(err)
	}
	comet := kickable{make(chan link.Delivery, 4)}
	inside.Register("comet", comet)
	if err := who.Register(t.Context(), []presence.Registration{{
		User: presence.User{App: "main", User: "alice"}, Entry: presence.Entry{Device: "phone", Node: "comet", Epoch: epoch, Conn: 7, Codec: link.CodecProto},
	}}); err != nil {
		t.Fatal(err)
	}
	keys, err := auth.OpenKeys(filepath.Join(t.TempDir(), "keys.json"))
	if err != nil {
		t.Fatal(err)
	}
	secret, _, err := keys.Add(auth.APIKey{App: "main", Name: "test", Scopes: []string{"*"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	remembered, err := bus.OpenLeases(t.Context(), conn, "halley_idempotency", api.IdempotencyTTL, 1)
	if err != nil {
		t.Fatal(err)
	}
	a, err := api.New(api.Default(), api.Deps{
		Caller: caller, Presence: who, Sender: inside, Keys: keys, SigningKey: auth.NewKey(), Audience: "halley", Idempotency: remembered,
		Version: "test", Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(a.Handler())
	t.Cleanup(web.Close)
	return &server{t: t, url: web.URL, secret: secret, keys: keys, kicked: comet.closes}
}

// do sends a request and decodes the answer into out; it returns the status and the header.
func (s *server) do(method, path string, header map[string]string, body string, out any) (int, http.Header) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.secret)
	req.Header.Set("Content-Type", "application/json")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if out != nil {
		if err := json.NewDecoder(bytes.NewReader(data)).Decode(out); err != nil {
			s.t.Fatalf("%s %s answered %d %q: %v", method, path, res.StatusCode, data, err)
		}
	}
	return res.StatusCode, res.Header
}

const hello = `{"conversation":"d:alice:bob","sender":"alice","message":{"text":{"text":"hello"}}}`

func TestAServerSendsAndReads(t *testing.T) {
	s := start(t)
	var first, second api.Written
	if status, _ := s.do("POST", "/v1/messages", nil, hello, &first); status != 200 || first.Seq != 1 || first.ID == "" {
		t.Fatalf("%d %+v", status, first)
	}
	if status, _ := s.do("POST", "/v1/messages", nil, hello, &second); status != 200 || second.Seq != 2 || second.Duplicate {
		t.Fatalf("without a key every request is a new message: %d %+v", status, second)
	}
	var page struct {
		Data    []api.Record `json:"data"`
		HeadSeq uint64       `json:"head_seq"`
		More    bool         `json:"more"`
	}
	if status, _ := s.do("GET", "/v1/conversations/d:alice:bob/records?limit=1", nil, "", &page); status != 200 || len(page.Data) != 1 || !page.More || page.HeadSeq != 2 {
		t.Fatalf("%d %+v", status, page)
	}
	if r := page.Data[0]; r.Seq != 1 || r.Type != "message" || !strings.Contains(string(r.Body), "hello") || r.ID != first.ID {
		t.Fatalf("%+v", r)
	}
}

func TestAnIdempotencyKeyIsOneMessage(t *testing.T) {
	s := start(t)
	key := map[string]string{"Idempotency-Key": "order-17"}
	var first, again api.Written
	s.do("POST", "/v1/messages", key, hello, &first)
	if status, _ := s.do("POST", "/v1/messages", key, hello, &again); status != 200 || again.Seq != first.Seq || again.ID != first.ID || !again.Duplicate {
		t.Fatalf("%d %+v, first %+v", status, again, first)
	}
	var p api.Problem
	other := strings.Replace(hello, "hello", "something else", 1)
	if status, _ := s.do("POST", "/v1/messages", key, other, &p); status != 422 || p.Code != "invalid" || !strings.Contains(p.Detail, "Idempotency-Key") {
		t.Fatalf("%d %+v", status, p)
	}
	var group, same api.Written
	create := `{"owner":"alice","name":"team","members":["bob","carol"]}`
	if status, _ := s.do("POST", "/v1/groups", map[string]string{"Idempotency-Key": "g"}, create, &group); status != 201 || group.Seq != 1 {
		t.Fatalf("%d %+v", status, group)
	}
	if s.do("POST", "/v1/groups", map[string]string{"Idempotency-Key": "g"}, create, &same); same.Conversation != group.Conversation || same.Seq != 1 {
		t.Fatalf("a retried create made %+v, first %+v", same, group)
	}
}

func TestAGroupIsKeptByTheServer(t *testing.T) {
	s := start(t)
	var group, change api.Written
	s.do("POST", "/v1/groups", nil, `{"owner":"alice","name":"team"}`, &group)
	if status, _ := s.do("POST", "/v1/groups/"+group.Conversation+"/members", nil, `{"members":["bob","carol"]}`, &change); status != 200 || change.Seq != 2 {
		t.Fatalf("%d %+v", status, change)
	}
	s.do("POST", "/v1/groups/"+group.Conversation+"/members/remove", nil, `{"members":["carol"]}`, nil)
	var members struct {
		Data []api.Member `json:"data"`
	}
	s.do("GET", "/v1/conversations/"+group.Conversation+"/members", nil, "", &members)
	if got := fmt.Sprint(members.Data); got != "[{alice owner 1 0} {bob member 2 0}]" {
		t.Fatal(got)
	}
	var p api.Problem
	if status, _ := s.do("POST", "/v1/groups/"+group.Conversation+"/members", nil, `{"members":["bob"]}`, &p); status != 409 || p.Code != "conflict" {
		t.Fatalf("%d %+v", status, p)
	}
}

func TestRefusalsAreProblems(t *testing.T) {
	s := start(t)
	for _, c := range []struct {
		name, method, path, body string
		header                   map[string]string
		status                   int
		code                     string
	}{
		{"no key", "GET", "/v1/users/alice/presence", "", map[string]string{"Authorization": ""}, 401, "unauthenticated"},
		{"wrong key", "GET", "/v1/users/alice/presence", "", map[string]string{"Authorization": "Bearer hk_abcdefgh_no"}, 401, "unauthenticated"},
		{"not JSON", "POST", "/v1/messages", "{", nil, 400, "invalid"},
		{"unknown field", "POST", "/v1/messages", strings.Replace(hello, `"sender"`, `"sendr":"x","sender"`, 1), nil, 422, "invalid"},
		{"unknown content", "POST", "/v1/messages", strings.Replace(hello, `"text":{`, `"txt":{`, 1), nil, 422, "invalid"},
		{"not a conversation", "POST", "/v1/messages", strings.Replace(hello, "d:alice:bob", "d:bob:alice", 1), nil, 422, "invalid"},
		{"not a party", "POST", "/v1/messages", strings.Replace(hello, `"sender":"alice"`, `"sender":"mallory"`, 1), nil, 403, "forbidden"},
		{"no group", "POST", "/v1/messages", strings.Replace(hello, "d:alice:bob", "g:none", 1), nil, 404, "not_found"},
		{"no history", "GET", "/v1/conversations/g:none/records", "", nil, 404, "not_found"},
		{"a user with a slash", "GET", "/v1/users/a%2Fb/presence", "", nil, 422, "invalid"},
		{"a token for too long", "POST", "/v1/tokens", `{"user":"alice","device":"d","ttl_s":99999999}`, nil, 422, "invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p api.Problem
			status, header := s.do(c.method, c.path, c.header, c.body, &p)
			if status != c.status || p.Code != c.code || p.Status != status || p.Detail == "" {
				t.Errorf("answered %d %+v, want %d %s", status, p, c.status, c.code)
			}
			if got := header.Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("Content-Type %q", got)
			}
		})
	}
}

func TestAKeyDoesWhatItsScopesSay(t *testing.T) {
	s := start(t)
	secret, _, err := s.keys.Add(auth.APIKey{App: "main", Name: "reader", Scopes: []string{api.ScopeUsers}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	only := map[string]string{"Authorization": "Bearer " + secret}
	if status, _ := s.do("GET", "/v1/users/alice/presence", only, "", nil); status != 200 {
		t.Fatalf("presence: %d", status)
	}
	if status, _ := s.do("POST", "/v1/messages", only, hello, nil); status != 403 {
		t.Fatalf("messages: %d", status)
	}
	other, _, err := s.keys.Add(auth.APIKey{App: "other", Name: "tenant", Scopes: []string{"*"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s.do("POST", "/v1/messages", nil, hello, nil)
	if status, _ := s.do("GET", "/v1/conversations/d:alice:bob/records", map[string]string{"Authorization": "Bearer " + other}, "", nil); status != 404 {
		t.Fatalf("another app reads this one's conversation: %d", status)
	}
}

func TestPresenceKickAndToken(t *testing.T) {
	s := start(t)
	var p struct {
		Online  bool         `json:"online"`
		Devices []api.Device `json:"devices"`
	}
	if s.do("GET", "/v1/users/alice/presence", nil, "", &p); !p.Online || len(p.Devices) != 1 || p.Devices[0].Device != "phone" {
		t.Fatalf("%+v", p)
	}
	var k struct {
		Disconnected int `json:"disconnected"`
	}
	if s.do("POST", "/v1/users/alice/disconnect?device=tablet", nil, "", &k); k.Disconnected != 0 {
		t.Fatalf("another device: %+v", k)
	}
	if s.do("POST", "/v1/users/alice/disconnect", nil, "", &k); k.Disconnected != 1 {
		t.Fatalf("%+v", k)
	}
	if d := <-s.kicked; d.Conn != 7 || d.Close != protocol.CloseKicked || d.Generation == 0 {
		t.Fatalf("%+v", d)
	}
	var token struct {
		Token     string `json:"token"`
		ExpiresUs int64  `json:"expires_us"`
	}
	if status, _ := s.do("POST", "/v1/tokens", nil, `{"user":"alice","device":"phone","ttl_s":60}`, &token); status != 201 || strings.Count(token.Token, ".") != 2 {
		t.Fatalf("%d %+v", status, token)
	}
	if left := time.Until(time.UnixMicro(token.ExpiresUs)); left < 50*time.Second || left > 60*time.Second {
		t.Fatalf("the token lives for %v", left)
	}
}
