// Package all is the list of features. It holds nothing else.
package all

import (
	"fmt"

	"github.com/halley-im/halley/logic/feature"
	"github.com/halley-im/halley/logic/feature/conversation"
	"github.com/halley-im/halley/logic/feature/message"
	"github.com/halley-im/halley/logic/feature/receipt"
	"github.com/halley-im/halley/logic/feature/signal"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// Features returns every feature. Without watches nobody can watch presence.
func Features(watches *signal.Watches) []feature.Feature {
	return []feature.Feature{message.Feature{}, conversation.Feature{}, receipt.Feature{}, signal.Feature{Watches: watches}}
}

// Handlers is the commands of all features. Two features that claim one command are a mistake in the list, found at start.
func Handlers(features []feature.Feature) (map[envelopev1.Command]feature.Handler, error) {
	all := make(map[envelopev1.Command]feature.Handler)
	for _, f := range features {
		for command, h := range f.Handlers() {
			if _, taken := all[command]; taken {
				return nil, fmt.Errorf("command %v has two features", command)
			}
			all[command] = h
		}
	}
	return all, nil
}
