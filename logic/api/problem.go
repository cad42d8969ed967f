package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/protocol"
)

// Problem is an error document, RFC 9457.
type Problem struct {
	Type      string `json:"type" doc:"Names the kind of error."`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty" doc:"One sentence for the developer; it names the field at fault."`
	Code      string `json:"code" doc:"Stable; listed in the protocol's documentation."`
	Retryable bool   `json:"retryable" doc:"Whether the same request may succeed later."`

	retryAfter time.Duration
}

func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders implements huma.HeadersError.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	switch {
	case p.retryAfter > 0:
		h.Set("Retry-After", fmt.Sprint(int((p.retryAfter+time.Second-1)/time.Second)))
	case p.Retryable:
		h.Set("Retry-After", "1")
	}
	return h
}

// statusOf is the HTTP status of each code; any other is a fault of the server.
func statusOf(code protocol.Code) int {
	switch code {
	case protocol.CodeInvalid, protocol.CodeUnknownCommand:
		return http.StatusUnprocessableEntity
	case protocol.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case protocol.CodeUnauthenticated:
		return http.StatusUnauthorized
	case protocol.CodeForbidden:
		return http.StatusForbidden
	case protocol.CodeNotFound:
		return http.StatusNotFound
	case protocol.CodeConflict, protocol.CodeExpired:
		return http.StatusConflict
	case protocol.CodeRateLimited:
		return http.StatusTooManyRequests
	case protocol.CodeBusy, protocol.CodeRetry, protocol.CodeResend:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func problem(err *protocol.Error) *Problem {
	status := statusOf(err.Code)
	return &Problem{
		Type: "urn:halley:error:" + string(err.Code), Title: http.StatusText(status), Status: status, Detail: err.Message,
		Code: string(err.Code), Retryable: err.Code.Retryable(), retryAfter: err.RetryAfter,
	}
}

// failure makes the problem of any error; what is not the caller's business is logged and hidden.
func (a *API) failure(err error) error {
	if err == nil {
		return nil
	}
	var refusal *protocol.Error
	switch {
	case errors.As(err, &refusal):
		return problem(refusal)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return problem(protocol.Errorf(protocol.CodeRetry, "no answer in time"))
	}
	a.deps.Logger.Error("api: request failed", "err", err)
	return problem(protocol.Errorf(protocol.CodeInternal, "the server could not carry this out; its log says why"))
}

// huma's own refusals (a body that is not JSON, a field of the wrong type) take the same form.
func problemOf(status int, msg string, errs ...error) huma.StatusError {
	code := protocol.CodeInvalid
	switch {
	case status == http.StatusRequestEntityTooLarge:
		code = protocol.CodeTooLarge
	case status == http.StatusUnauthorized:
		code = protocol.CodeUnauthenticated
	case status >= 500:
		code = protocol.CodeInternal
	}
	details := []string{msg}
	for _, err := range errs {
		if err != nil {
			details = append(details, err.Error())
		}
	}
	p := problem(protocol.Errorf(code, "%s", strings.Join(details, "; ")))
	p.Status, p.Title = status, http.StatusText(status)
	return p
}

type callerKey struct{}

// authenticate lets in who has a server key with the scope of the operation.
func (a *API) authenticate(h huma.API) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		scheme, secret, _ := strings.Cut(ctx.Header("Authorization"), " ")
		var key auth.APIKey
		err := errors.New("an Authorization header with a bearer server key is needed")
		if strings.EqualFold(scheme, "bearer") {
			key, err = a.deps.Keys.Verify(strings.TrimSpace(secret), time.Now())
		}
		switch {
		case err != nil:
			writeProblem(h, ctx, protocol.Errorf(protocol.CodeUnauthenticated, "%s", err))
		case !key.Allows(ctx.Operation().Tags[0]):
			writeProblem(h, ctx, protocol.Errorf(protocol.CodeForbidden, "the key %s lacks the scope %q", key.Prefix(), ctx.Operation().Tags[0]))
		default:
			next(huma.WithValue(ctx, callerKey{}, key.App))
		}
	}
}

func writeProblem(h huma.API, ctx huma.Context, err *protocol.Error) {
	p := problem(err)
	ctx.SetHeader("Content-Type", p.ContentType(""))
	if p.Status == http.StatusUnauthorized {
		ctx.SetHeader("WWW-Authenticate", `Bearer realm="halley"`)
	}
	ctx.SetStatus(p.Status)
	_ = h.Marshal(ctx.BodyWriter(), "application/json", p) // The client is gone.
}

// app is the app of the key that the request came with.
func app(ctx context.Context) string {
	name, _ := ctx.Value(callerKey{}).(string)
	return name
}
