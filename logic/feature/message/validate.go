package message

import (
	"math"
	"net/url"
	"unicode/utf8"

	"github.com/halley-im/halley/protocol"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
)

// Limits of a message's parts, in bytes unless the name says otherwise; message.proto states them to client authors.
const (
	maxText      = 20_000
	maxCustom    = 20_000
	maxURL       = 2048
	maxMIME      = 128
	maxName      = 255
	maxTitle     = 255
	maxAddress   = 1024
	maxKind      = 64
	maxMentions  = 100
	sha256Digits = 64
)

// Validate refuses a message that breaks a limit, and names the field.
func Validate(m *messagev1.Message) *protocol.Error {
	if err := validateContent(m); err != nil {
		return err
	}
	return validateMentions(m.Mentions)
}

func validateContent(m *messagev1.Message) *protocol.Error {
	switch c := m.Content.(type) {
	case *messagev1.Message_Text:
		return text("text.text", c.Text.GetText(), 1, maxText)
	case *messagev1.Message_Image:
		if err := media("image.media", c.Image.GetMedia()); err != nil {
			return err
		}
		return optionalURL("image.thumbnail_url", c.Image.GetThumbnailUrl())
	case *messagev1.Message_Voice:
		return media("voice.media", c.Voice.GetMedia())
	case *messagev1.Message_Video:
		if err := media("video.media", c.Video.GetMedia()); err != nil {
			return err
		}
		return optionalURL("video.thumbnail_url", c.Video.GetThumbnailUrl())
	case *messagev1.Message_File:
		return media("file.media", c.File.GetMedia())
	case *messagev1.Message_Location:
		return location(c.Location)
	case *messagev1.Message_Custom:
		return custom(c.Custom)
	}
	return protocol.Invalid("content", "one of text, image, voice, video, file, location, custom must be set")
}

func validateMentions(mentions []*messagev1.Mention) *protocol.Error {
	if len(mentions) > maxMentions {
		return protocol.Invalid("mentions", "%d entries, at most %d", len(mentions), maxMentions)
	}
	for i, m := range mentions {
		switch t := m.GetTarget().(type) {
		case *messagev1.Mention_User:
			if !protocol.ValidUser(t.User) {
				return protocol.Invalid("mentions", "entry %d: %q is not the name of a user", i, t.User)
			}
		case *messagev1.Mention_All:
			if !t.All {
				return protocol.Invalid("mentions", "entry %d: all must be true where it is set", i)
			}
		default:
			return protocol.Invalid("mentions", "entry %d: user or all must be set", i)
		}
	}
	return nil
}

func text(field, s string, least, most int) *protocol.Error {
	switch {
	case len(s) < least:
		return protocol.Invalid(field, "must not be empty")
	case len(s) > most:
		return protocol.Invalid(field, "%d bytes, at most %d", len(s), most)
	case !utf8.ValidString(s):
		return protocol.Invalid(field, "is not UTF-8")
	}
	return nil
}

func media(field string, m *messagev1.Media) *protocol.Error {
	if m == nil {
		return protocol.Invalid(field, "must be set")
	}
	if err := text(field+".url", m.Url, 1, maxURL); err != nil {
		return err
	}
	if err := optionalURL(field+".url", m.Url); err != nil {
		return err
	}
	if err := text(field+".mime_type", m.MimeType, 0, maxMIME); err != nil {
		return err
	}
	if err := text(field+".name", m.Name, 0, maxName); err != nil {
		return err
	}
	if m.Sha256 != "" && !hexDigest(m.Sha256) {
		return protocol.Invalid(field+".sha256", "must be %d lower-case hexadecimal digits", sha256Digits)
	}
	return nil
}

// optionalURL takes an https URL or a file key, which has no scheme. Other schemes are refused: a javascript: or data: URL in a
// message would run or load in somebody else's client.
func optionalURL(field, s string) *protocol.Error {
	if err := text(field, s, 0, maxURL); err != nil {
		return err
	}
	u, err := url.Parse(s)
	if err != nil {
		return protocol.Invalid(field, "is neither a URL nor a file key")
	}
	if u.Scheme != "" && u.Scheme != "https" {
		return protocol.Invalid(field, "the scheme must be https, not %q", u.Scheme)
	}
	if u.Scheme == "https" && u.Host == "" {
		return protocol.Invalid(field, "the URL has no host")
	}
	if u.Scheme == "" && u.Host != "" { // "//host/path" would be loaded from there by whatever shows it.
		return protocol.Invalid(field, "a URL needs its scheme, and a file key has no host")
	}
	return nil
}

func hexDigest(s string) bool {
	if len(s) != sha256Digits {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func location(l *messagev1.Location) *protocol.Error {
	if !(math.Abs(l.GetLatitude()) <= 90) { // Written so that NaN is refused.
		return protocol.Invalid("location.latitude", "must lie between -90 and 90")
	}
	if !(math.Abs(l.GetLongitude()) <= 180) {
		return protocol.Invalid("location.longitude", "must lie between -180 and 180")
	}
	if err := text("location.title", l.GetTitle(), 0, maxTitle); err != nil {
		return err
	}
	return text("location.address", l.GetAddress(), 0, maxAddress)
}

func custom(c *messagev1.Custom) *protocol.Error {
	if len(c.GetData()) > maxCustom {
		return protocol.Invalid("custom.data", "%d bytes, at most %d", len(c.GetData()), maxCustom)
	}
	kind := c.GetKind()
	if kind == "" || len(kind) > maxKind {
		return protocol.Invalid("custom.kind", "must be 1 to %d characters", maxKind)
	}
	for i := range len(kind) {
		if b := kind[i]; (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '_' && b != '.' && b != '-' {
			return protocol.Invalid("custom.kind", "%q: only a-z, 0-9, _, . and - are allowed", kind)
		}
	}
	return nil
}
