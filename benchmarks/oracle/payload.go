package oracle

import (
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"math/rand/v2"
	"unsafe"
)

// MinPayload is the size of a payload without filler: run, sender, counter and checksum, eight hexadecimal digits each.
const MinPayload = 32

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Payloads makes and checks message texts that say whose they are and prove themselves: run, sender, counter, filler,
// checksum. All is printable ASCII, as a text message wants.
type Payloads struct {
	size   int
	prefix [8]byte
	filler []byte
}

// NewPayloads makes texts of size bytes, at least MinPayload.
func NewPayloads(run uint32, seed uint64, size int) *Payloads {
	p := &Payloads{size: max(size, MinPayload)}
	putHex(p.prefix[:], run)
	r := rand.New(rand.NewPCG(seed, 1))
	p.filler = make([]byte, p.size-MinPayload+64)
	for i := range p.filler {
		p.filler[i] = 'a' + byte(r.IntN(26))
	}
	return p
}

// Append writes the text of a message behind b.
func (p *Payloads) Append(b []byte, sender, counter uint32) []byte {
	start := len(b)
	b = append(b, p.prefix[:]...)
	b = append(b, "................"...)
	putHex(b[start+8:], sender)
	putHex(b[start+16:], counter)
	b = append(b, p.filler[counter%64:][:p.size-MinPayload]...)
	sum := crc32.Checksum(b[start:], castagnoli)
	b = append(b, "........"...)
	putHex(b[len(b)-8:], sum)
	return b
}

// Check reports whether text is exactly what Append wrote for that message.
func (p *Payloads) Check(text string, sender, counter uint32) bool {
	if len(text) != p.size || text[:8] != string(p.prefix[:]) {
		return false
	}
	var want [8]byte
	for i, v := range [2]uint32{sender, counter} {
		putHex(want[:], v)
		if text[8+8*i:16+8*i] != string(want[:]) {
			return false
		}
	}
	filler := text[24 : p.size-8]
	if filler != string(p.filler[counter%64:][:len(filler)]) {
		return false
	}
	// crc32 only reads; a conversion would copy the text for every message.
	sum := crc32.Checksum(unsafe.Slice(unsafe.StringData(text), p.size-8), castagnoli)
	putHex(want[:], sum)
	return text[p.size-8:] == string(want[:])
}

func putHex(b []byte, v uint32) {
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], v)
	hex.Encode(b, raw[:])
}
