package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/ids"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

type listInput struct {
	User           string `path:"user"`
	Limit          uint32 `query:"limit" maximum:"200" doc:"0 means 50."`
	Cursor         string `query:"cursor" doc:"next_cursor of the page before."`
	ChangedSinceUs int64  `query:"changed_since_us" minimum:"0" doc:"Only conversations active at or after this time."`
}

type listOutput struct {
	Body struct {
		Data            []Head `json:"data" doc:"Newest first."`
		NextCursor      string `json:"next_cursor" doc:"Empty at the end."`
		CompleteUntilUs int64  `json:"complete_until_us"`
	}
}

type userInput struct {
	User string `path:"user"`
}

// Device is one connected device.
type Device struct {
	Device string `json:"device"`
	Node   string `json:"node"`
}

type presenceOutput struct {
	Body struct {
		User    string   `json:"user"`
		Online  bool     `json:"online"`
		Devices []Device `json:"devices"`
	}
}

type kickInput struct {
	User   string `path:"user"`
	Device string `query:"device" doc:"Only this device; without it all."`
}

type kickOutput struct {
	Body struct {
		Disconnected int `json:"disconnected" doc:"Sessions told to close."`
	}
}

type tokenInput struct {
	Body struct {
		User   string `json:"user"`
		Device string `json:"device"`
		TTLs   int    `json:"ttl_s,omitempty" minimum:"0" doc:"Seconds; 0 means one hour."`
	}
}

type tokenOutput struct {
	Body struct {
		Token     string `json:"token"`
		ExpiresUs int64  `json:"expires_us"`
	}
}

func (a *API) registerUsers(h huma.API) {
	huma.Register(h, operation(http.MethodGet, "/v1/users/{user}/conversations", "list-conversations", ScopeConversations, "A user's conversations"), a.listConversations)
	huma.Register(h, operation(http.MethodGet, "/v1/users/{user}/presence", "read-presence", ScopeUsers, "Whether a user is online"), a.readPresence)
	huma.Register(h, operation(http.MethodPost, "/v1/users/{user}/disconnect", "disconnect-user", ScopeUsers, "Close a user's sessions"), a.kick)
	issue := operation(http.MethodPost, "/v1/tokens", "issue-token", ScopeTokens, "Issue a token for a user's device")
	issue.DefaultStatus = http.StatusCreated
	huma.Register(h, issue, a.issueToken)
}

func (a *API) listConversations(ctx context.Context, in *listInput) (*listOutput, error) {
	if err := validUser("user", in.User); err != nil {
		return nil, a.failure(err)
	}
	reply := &conversationv1.ListReply{}
	r := link.Request{User: in.User, Command: envelopev1.Command_COMMAND_CONVERSATION_LIST, Conversation: protocol.UserLog(in.User)}
	body := &conversationv1.ListRequest{Limit: in.Limit, Cursor: in.Cursor, ChangedSinceUs: in.ChangedSinceUs}
	if err := a.ask(ctx, r, body, reply); err != nil {
		return nil, a.failure(err)
	}
	out := &listOutput{}
	out.Body.NextCursor, out.Body.CompleteUntilUs = reply.NextCursor, reply.CompleteUntilUs
	out.Body.Data = make([]Head, len(reply.Conversations))
	for i, h := range reply.Conversations {
		out.Body.Data[i] = headOf(h)
	}
	return out, nil
}

// entries looks up where a user is connected.
func (a *API) entries(ctx context.Context, user string) ([]presence.Entry, error) {
	if err := validUser("user", user); err != nil {
		return nil, err
	}
	found, err := a.deps.Presence.Lookup(ctx, []presence.User{{App: app(ctx), User: user}}, nil)
	if err != nil {
		return nil, protocol.Errorf(protocol.CodeRetry, "presence does not answer")
	}
	return found[0], nil
}

func (a *API) readPresence(ctx context.Context, in *userInput) (*presenceOutput, error) {
	found, err := a.entries(ctx, in.User)
	if err != nil {
		return nil, a.failure(err)
	}
	out := &presenceOutput{}
	out.Body.User, out.Body.Online, out.Body.Devices = in.User, len(found) > 0, make([]Device, len(found))
	for i, e := range found {
		out.Body.Devices[i] = Device{Device: e.Device, Node: e.Node}
	}
	return out, nil
}

func (a *API) kick(ctx context.Context, in *kickInput) (*kickOutput, error) {
	found, err := a.entries(ctx, in.User)
	if err != nil {
		return nil, a.failure(err)
	}
	out := &kickOutput{}
	for _, e := range found {
		if in.Device != "" && e.Device != in.Device {
			continue
		}
		a.deps.Sender.Send(e.Node, &link.Batch{Deliveries: []link.Delivery{{Conn: e.Conn, Close: protocol.CloseKicked, Generation: e.Generation}}})
		out.Body.Disconnected++
	}
	return out, nil
}

func (a *API) issueToken(ctx context.Context, in *tokenInput) (*tokenOutput, error) {
	if err := validUser("user", in.Body.User); err != nil {
		return nil, a.failure(err)
	}
	if !protocol.ValidDevice(in.Body.Device) {
		return nil, a.failure(protocol.Invalid("device", "%q is not the name of a device", in.Body.Device))
	}
	ttl := in.Body.TTLs
	if ttl == 0 {
		ttl = 3600
	}
	if ttl > a.cfg.TokenTTLMaxS {
		return nil, a.failure(protocol.Invalid("ttl_s", "%d, at most %d", ttl, a.cfg.TokenTTLMaxS))
	}
	now := time.Now()
	claims := auth.Claims{
		App: app(ctx), User: in.Body.User, Device: in.Body.Device, TokenID: ids.NewClientID(), Audience: a.deps.Audience,
		IssuedAt: now, Expires: now.Add(time.Duration(ttl) * time.Second),
	}
	token, err := auth.Issue(a.deps.SigningKey, claims)
	if err != nil {
		return nil, a.failure(err)
	}
	out := &tokenOutput{}
	out.Body.Token, out.Body.ExpiresUs = token, claims.Expires.UnixMicro()
	return out, nil
}
