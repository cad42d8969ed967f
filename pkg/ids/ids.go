// Package ids makes the ids of records and of devices' writes. It keeps no state: where an id must be unique, the caller's
// time is what makes it so.
package ids

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/sony/sonyflake/v2"
)

// MaxPartitions is how many partitions the machine part of an id can tell apart.
const MaxPartitions = 1 << bitsPartition

const (
	bitsMicro     = 12 // Below 1,000 of them: the sequence is the microsecond within its millisecond.
	bitsPartition = 10
	bitsTime      = 63 - bitsMicro - bitsPartition
)

// epochUs is where ids begin, 2026-01-01 UTC. It never changes: ids would repeat.
const epochUs = 1_767_225_600_000_000

// spanUs is how long they last: 69 years.
const spanUs = int64(1000) << bitsTime

// composer's settings beside the bits concern ids that it makes from its own clock, which Compose does not.
var composer = func() *sonyflake.Sonyflake {
	s, err := sonyflake.New(sonyflake.Settings{
		BitsSequence:  bitsMicro,
		BitsMachineID: bitsPartition,
		TimeUnit:      time.Millisecond,
		// New refuses a start after the clock's time. A node whose clock is that wrong shall say so in words of its own, so
		// MessageID counts from 1970 on and subtracts.
		StartTime: time.Unix(0, 0),
		MachineID: func() (int, error) { return 0, nil },
	})
	if err != nil {
		panic(fmt.Sprintf("ids: settings are constants and must hold: %v", err))
	}
	return s
}()

// MessageID is the id of the record with this time, in microseconds since 1970, in this partition's log. Times of a log rise
// with every record, so ids do too, and the partition tells logs apart. A time outside the 69 years from 2026 on comes
// from a wrong clock; it wraps, and its id is still unique.
func MessageID(timeUs int64, partition int) uint64 {
	sinceEpochUs := ((timeUs-epochUs)%spanUs + spanUs) % spanUs
	id, err := composer.Compose(time.UnixMicro(sinceEpochUs), int(sinceEpochUs%1000), partition)
	if err != nil {
		panic(fmt.Sprintf("ids: partition %d of at most %d: %v", partition, MaxPartitions, err))
	}
	return uint64(id)
}

// Parts takes a message id apart: the record's time in microseconds since 1970, and its partition.
func Parts(id uint64) (timeUs int64, partition int) {
	ms := int64(id >> (bitsMicro + bitsPartition))
	micro := int64(id>>bitsPartition) & (1<<bitsMicro - 1)
	return epochUs + ms*1000 + micro, int(id & (MaxPartitions - 1))
}

// NewClientID is an id for a write of a device: a UUIDv7 (RFC 9562, section 5.7).
func NewClientID() string { return uuid.Must(uuid.NewV7()).String() }
