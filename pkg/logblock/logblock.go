// Package logblock turns a block of a partition's log into the bytes that are stored, and back. It never talks to a log.
package logblock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// ErrCorrupt means that the bytes are not a block: the checksum does not match or what it covers cannot be decoded.
var ErrCorrupt = errors.New("logblock: corrupt block")

const headerLen = 4 // CRC-32C of the rest, big-endian

// CRC-32C (Castagnoli), as iSCSI (RFC 3720) has it: computed by an instruction of its own on amd64 and arm64.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendTo appends the stored form of b to dst and returns it with the block's CRC, which the next block names.
func AppendTo(dst []byte, b *logv1.Block) ([]byte, uint32, error) {
	start, size := len(dst), b.SizeVT()
	if need := start + headerLen + size; cap(dst) < need {
		grown := make([]byte, start, need+need/4)
		copy(grown, dst)
		dst = grown
	}
	dst = dst[:start+headerLen+size]
	if _, err := b.MarshalToSizedBufferVT(dst[start+headerLen:]); err != nil {
		return nil, 0, fmt.Errorf("encode block: %w", err)
	}
	crc := crc32.Checksum(dst[start+headerLen:], castagnoli)
	binary.BigEndian.PutUint32(dst[start:], crc)
	return dst, crc, nil
}

// Encode returns the stored form of b.
func Encode(b *logv1.Block) ([]byte, error) {
	data, _, err := AppendTo(nil, b)
	return data, err
}

// Decode checks data and fills b, whose strings and bodies point into data: the caller gives data away.
func Decode(data []byte, b *logv1.Block) error {
	crc, err := CRC(data)
	if err != nil {
		return err
	}
	if got := crc32.Checksum(data[headerLen:], castagnoli); got != crc {
		return fmt.Errorf("%w: checksum %08x, stored %08x", ErrCorrupt, got, crc)
	}
	if err := b.UnmarshalVTUnsafe(data[headerLen:]); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return nil
}

// CRC is the checksum that stands in data.
func CRC(data []byte) (uint32, error) {
	if len(data) < headerLen {
		return 0, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(data))
	}
	return binary.BigEndian.Uint32(data), nil
}
