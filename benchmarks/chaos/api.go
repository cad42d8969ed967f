package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/halley-im/halley/benchmarks/oracle"
)

// api reads as the app's server does.
type api struct {
	hosts []string
	key   string
	http  http.Client
}

const apiTimeout = 10 * time.Second

// get asks the nodes in turn until one answers.
func (a *api) get(ctx context.Context, path string, into any) error {
	return until(ctx, func() error {
		var last error
		for _, host := range a.hosts {
			status, err := a.ask(ctx, host, path, into)
			if err == nil {
				return nil
			}
			if last = err; status == http.StatusNotFound {
				break
			}
		}
		return last
	})
}

func (a *api) ask(ctx context.Context, host, path string, into any) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, http.NoBody)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+a.key)
	res, err := a.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close() //nolint:errcheck // what counts was read.
	if res.StatusCode != http.StatusOK {
		return res.StatusCode, fmt.Errorf("GET %s: %s", path, res.Status)
	}
	return res.StatusCode, json.NewDecoder(res.Body).Decode(into)
}

// record is one of the API's.
type record struct {
	Seq, Count, Target uint64
	ID                 string
	Sender             string
	ClientID           string `json:"client_id"`
	TimeUs             int64  `json:"time_us"`
	Joined, Left       []string
	Type               string
	Body               struct{ Text struct{ Text string } }
}

// history reads a conversation from its first record to its head.
func (a *api) history(ctx context.Context, conversation string) ([]oracle.Entry, error) {
	var entries []oracle.Entry
	for after := uint64(0); ; {
		var page struct {
			Data []record
			More bool
		}
		path := fmt.Sprintf("/v1/conversations/%s/records?limit=200&after_seq=%d", url.PathEscape(conversation), after)
		if err := a.get(ctx, path, &page); err != nil {
			return nil, err
		}
		for i := range page.Data {
			e, err := page.Data[i].entry()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", conversation, err)
			}
			entries = append(entries, e)
			after = e.Seq
		}
		if !page.More || len(page.Data) == 0 {
			return entries, nil
		}
	}
}

func (r *record) entry() (oracle.Entry, error) {
	id, err := strconv.ParseUint(r.ID, 10, 64)
	if err != nil {
		return oracle.Entry{}, fmt.Errorf("id of %d: %w", r.Seq, err)
	}
	s := said{
		seq: r.Seq, count: r.Count, id: id, target: r.Target, timeUs: r.TimeUs, sender: r.Sender, clientID: r.ClientID,
		joined: r.Joined, left: r.Left, text: r.Body.Text.Text,
	}
	return oracle.Entry{
		Shown:  oracle.Shown{Seq: r.Seq, ClientID: r.ClientID, Print: s.print()},
		Sender: r.Sender, Message: r.Type == "message", Joined: r.Joined, Left: r.Left,
	}, nil
}

// online says whether a user is, by what presence holds.
func (a *api) online(ctx context.Context, user string) (devices int, err error) {
	var answer struct {
		Devices []struct{ Device string }
	}
	err = a.get(ctx, "/v1/users/"+url.PathEscape(user)+"/presence", &answer)
	return len(answer.Devices), err
}
