package message_test

import (
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/halley-im/halley/logic/feature/message"
	"github.com/halley-im/halley/protocol"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
)

type (
	msg = messagev1.Message
	med = messagev1.Media
)

func text(s string) *msg {
	return &msg{Content: &messagev1.Message_Text{Text: &messagev1.Text{Text: s}}}
}

func file(m *med) *msg {
	return &msg{Content: &messagev1.Message_File{File: &messagev1.File{Media: m}}}
}

func image(thumbnail string) *msg {
	return &msg{Content: &messagev1.Message_Image{Image: &messagev1.Image{Media: &med{Url: "key"}, ThumbnailUrl: thumbnail}}}
}

func place(lat, long float64, title, address string) *msg {
	return &msg{Content: &messagev1.Message_Location{Location: &messagev1.Location{Latitude: lat, Longitude: long, Title: title, Address: address}}}
}

func custom(kind string, data int) *msg {
	return &msg{Content: &messagev1.Message_Custom{Custom: &messagev1.Custom{Kind: kind, Data: make([]byte, data)}}}
}

func mentions(n int, m *messagev1.Mention) *msg {
	out := text("x")
	for range n {
		out.Mentions = append(out.Mentions, m)
	}
	return out
}

func user(name string) *messagev1.Mention {
	return &messagev1.Mention{Target: &messagev1.Mention_User{User: name}}
}

func all(on bool) *messagev1.Mention {
	return &messagev1.Mention{Target: &messagev1.Mention_All{All: on}}
}

var long = strings.Repeat("x", 20_000)

func TestGoodMessagesPass(t *testing.T) {
	for name, m := range map[string]*msg{
		"one byte":              text("x"),
		"the longest":           text(long),
		"any language":          text("你好 👋🏽"),
		"a file key":            file(&med{Url: "2026/11/cat.jpg"}),
		"an https URL":          file(&med{Url: "https://files.example/a?b=c#d", MimeType: "image/jpeg", Name: "cat 1.jpg", Sha256: strings.Repeat("0a", 32)}),
		"upper-case scheme":     file(&med{Url: "HTTPS://files.example/a"}),
		"the longest name":      file(&med{Url: long[:2048], Name: long[:255], MimeType: long[:128]}),
		"a thumbnail":           image("https://files.example/t"),
		"no thumbnail":          image(""),
		"voice":                 {Content: &messagev1.Message_Voice{Voice: &messagev1.Voice{Media: &med{Url: "v"}}}},
		"video":                 {Content: &messagev1.Message_Video{Video: &messagev1.Video{Media: &med{Url: "v"}, ThumbnailUrl: "t"}}},
		"the pole":              place(-90, 180, long[:255], long[:1024]),
		"a custom kind":         custom("a-z_0.9", 20_000),
		"a custom without":      custom("x", 0),
		"a hundred mentions":    mentions(100, user("bob.o_hara@x-1")),
		"everyone is mentioned": mentions(1, all(true)),
	} {
		if err := message.Validate(m); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestARefusalNamesTheField(t *testing.T) {
	for name, c := range map[string]struct {
		m     *msg
		field string
	}{
		"nothing":               {&msg{}, "content:"},
		"only mentions":         {&msg{Mentions: []*messagev1.Mention{user("bob")}}, "content:"},
		"an empty text":         {text(""), "text.text:"},
		"a text that is unset":  {&msg{Content: &messagev1.Message_Text{}}, "text.text:"},
		"a long text":           {text(long + "x"), "text.text:"},
		"broken UTF-8":          {text("a\xff"), "text.text:"},
		"no media":              {file(nil), "file.media:"},
		"no URL":                {file(&med{}), "file.media.url:"},
		"a long URL":            {file(&med{Url: long[:2049]}), "file.media.url:"},
		"http":                  {file(&med{Url: "http://files.example/a"}), "file.media.url:"},
		"javascript":            {file(&med{Url: "javascript:alert(1)"}), "file.media.url:"},
		"JavaScript":            {file(&med{Url: "JavaScript:alert(1)"}), "file.media.url:"},
		"data":                  {image("data:text/html,<script>"), "image.thumbnail_url:"},
		"no host":               {file(&med{Url: "https:/a"}), "file.media.url:"},
		"no scheme":             {file(&med{Url: "//evil.example/a"}), "file.media.url:"},
		"a control character":   {file(&med{Url: "a\nb"}), "file.media.url:"},
		"a long MIME type":      {file(&med{Url: "a", MimeType: long[:129]}), "file.media.mime_type:"},
		"a long name":           {file(&med{Url: "a", Name: long[:256]}), "file.media.name:"},
		"a short digest":        {file(&med{Url: "a", Sha256: "00"}), "file.media.sha256:"},
		"an upper-case digest":  {file(&med{Url: "a", Sha256: strings.Repeat("0A", 32)}), "file.media.sha256:"},
		"image":                 {&msg{Content: &messagev1.Message_Image{Image: &messagev1.Image{}}}, "image.media:"},
		"voice":                 {&msg{Content: &messagev1.Message_Voice{}}, "voice.media:"},
		"video":                 {&msg{Content: &messagev1.Message_Video{}}, "video.media:"},
		"too far north":         {place(90.1, 0, "", ""), "location.latitude:"},
		"nowhere":               {place(math.NaN(), 0, "", ""), "location.latitude:"},
		"beyond the date line":  {place(0, math.Inf(-1), "", ""), "location.longitude:"},
		"a long title":          {place(0, 0, long[:256], ""), "location.title:"},
		"a long address":        {place(0, 0, "", long[:1025]), "location.address:"},
		"no kind":               {custom("", 0), "custom.kind:"},
		"a loud kind":           {custom("Order", 0), "custom.kind:"},
		"a long kind":           {custom(long[:65], 0), "custom.kind:"},
		"much data":             {custom("x", 20_001), "custom.data:"},
		"many mentions":         {mentions(101, user("bob")), "mentions:"},
		"a mention of none":     {mentions(1, &messagev1.Mention{}), "mentions:"},
		"a mention that is nil": {mentions(1, nil), "mentions:"},
		"a name that is none":   {mentions(1, user("b ob")), "mentions:"},
		"not all":               {mentions(1, all(false)), "mentions:"},
	} {
		err := message.Validate(c.m)
		if err == nil || err.Code != protocol.CodeInvalid || !strings.HasPrefix(err.Message, c.field) {
			t.Errorf("%s: %v, want an invalid %s", name, err, c.field)
		}
	}
}

// What passes keeps its promises, whatever bytes it came from.
func FuzzValidate(f *testing.F) {
	for _, m := range []*msg{text("hi"), file(&med{Url: "https://a/b"}), image("//x"), place(1, 2, "a", "b"), custom("a", 3), mentions(2, user("bob"))} {
		data, err := m.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &msg{}
		if protocol.DecodeBody(false, data, m) != nil {
			return
		}
		if err := message.Validate(m); err != nil {
			if err.Code != protocol.CodeInvalid || !strings.Contains(err.Message, ": ") {
				t.Fatalf("refused without a field: %v", err)
			}
			return
		}
		for _, url := range []string{
			m.GetFile().GetMedia().GetUrl(), m.GetImage().GetMedia().GetUrl(), m.GetVoice().GetMedia().GetUrl(),
			m.GetVideo().GetMedia().GetUrl(), m.GetImage().GetThumbnailUrl(), m.GetVideo().GetThumbnailUrl(),
		} {
			scheme, _, found := strings.Cut(url, ":")
			if found && !strings.ContainsAny(scheme, "/?#") && !strings.EqualFold(scheme, "https") || strings.HasPrefix(url, "//") {
				t.Fatalf("%q passed", url)
			}
		}
		if s := m.GetText().GetText(); len(s) > 20_000 || !utf8.ValidString(s) {
			t.Fatalf("%q passed", s)
		}
		if len(m.Mentions) > 100 {
			t.Fatalf("%d mentions passed", len(m.Mentions))
		}
	})
}
