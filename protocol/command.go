package protocol

import (
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

var wordOf, commandOf = indexCommands()

func indexCommands() (map[envelopev1.Command]string, map[string]envelopev1.Command) {
	words := make(map[envelopev1.Command]string, len(commands))
	byWord := make(map[string]envelopev1.Command, len(commands))
	for _, c := range commands {
		words[c.command] = c.word
		byWord[c.word] = c.command
	}
	return words, byWord
}

// CommandWord is the command's word in the JSON subprotocol; empty for a number that is no command of a device.
func CommandWord(c envelopev1.Command) string { return wordOf[c] }

// ParseCommand is the reverse of CommandWord.
func ParseCommand(word string) (envelopev1.Command, bool) {
	c, ok := commandOf[word]
	return c, ok
}
