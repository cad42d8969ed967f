// Package protocol holds the words that a device and the tiers share: frames, commands, error and close codes, names, the
// JSON subprotocol and the subjects of the bus. It never talks to anything.
package protocol

// Subprotocols of the WebSocket handshake; they also name the codecs over TCP.
const (
	SubprotocolProto = "halley.v1.proto"
	SubprotocolJSON  = "halley.v1.json"
)

// DefaultApp is the app of a token that names none.
const DefaultApp = "main"

// Commands below FirstRequest are comet's own; those from FirstPush on are sent by the server only.
const (
	FirstRequest = 16
	FirstPush    = 128
)

// CommandStanding is the request with which job's userlog follower writes a record of a user's log. It travels on
// SubjectServer alone: no subprotocol has a word for it and comet takes no command from FirstPush on, so no device can
// send it.
const CommandStanding = 1000

// CommandHeadOf is the request with which the owner of a user's log asks the owner of one conversation for its head, in the
// user's name. It is never accepted from a device.
const CommandHeadOf = 1001

// CommandCursorAt raises the read cursor of the request's user to a seq whose count the sender has read from the store. It is
// never accepted from a device.
const CommandCursorAt = 1002

// CommandAttach is the request with which comet asks the owner of a user's log, in the user's name, for the user's large
// conversations. Its answer is comet's own and never leaves it.
const CommandAttach = 1003

// MaxAttachedRooms is how many rooms one answer to CommandAttach holds; a node asks for more behind the last.
const MaxAttachedRooms = 512
