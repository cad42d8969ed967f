// Command centrifuge is the smallest chat server around the centrifuge library: users come with a signed token, listen where they
// may, and publish. It keeps nothing on disk. It is a module of its own, so that Halley does not require what it requires.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/centrifugal/centrifuge"
	"github.com/golang-jwt/jwt/v5"
)

// What a channel's history holds where there is one.
const (
	historySize = 100
	historyTTL  = time.Hour
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("centrifuge", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8000", "where WebSockets connect, at /connection/websocket")
	secretFile := flags.String("secret-file", "", "file with the key that signs tokens (HS256)")
	history := flags.Bool("history", false, "keep the last messages of each channel in memory, for subscribers to recover")
	if err := flags.Parse(args); err != nil {
		return err
	}
	secret, err := os.ReadFile(*secretFile)
	if err != nil {
		return err
	}
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		return err
	}
	s := server{secret: secret, history: *history}
	node.OnConnecting(s.connecting)
	node.OnConnect(s.connect)
	if err := node.Run(); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{UseWriteBufferPool: true}))
	web := &http.Server{Addr: *listen, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		_ = web.Close()
	}()
	if err := web.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type server struct {
	secret  []byte
	history bool
}

// connecting takes the user from a token that is signed and not over.
func (s server) connecting(_ context.Context, e centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
	token, err := jwt.ParseWithClaims(e.Token, &jwt.RegisteredClaims{}, func(*jwt.Token) (any, error) { return s.secret, nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired())
	if err != nil {
		return centrifuge.ConnectReply{}, centrifuge.DisconnectInvalidToken
	}
	user, err := token.Claims.GetSubject()
	if err != nil || user == "" {
		return centrifuge.ConnectReply{}, centrifuge.DisconnectInvalidToken
	}
	return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: user}}, nil
}

// connect lets a user listen to its own channel and to rooms, and write to all.
func (s server) connect(client *centrifuge.Client) {
	client.OnSubscribe(func(e centrifuge.SubscribeEvent, done centrifuge.SubscribeCallback) {
		if e.Channel != client.UserID() && !strings.HasPrefix(e.Channel, "room") {
			done(centrifuge.SubscribeReply{}, centrifuge.ErrorPermissionDenied)
			return
		}
		done(centrifuge.SubscribeReply{Options: centrifuge.SubscribeOptions{EnableRecovery: s.history}}, nil)
	})
	client.OnPublish(func(_ centrifuge.PublishEvent, done centrifuge.PublishCallback) {
		var reply centrifuge.PublishReply
		if s.history {
			reply.Options = centrifuge.PublishOptions{HistorySize: historySize, HistoryTTL: historyTTL}
		}
		done(reply, nil)
	})
}
