package protocol

import "strconv"

// SubjectPartition carries request batches of comets and APIs to the owner of a partition.
func SubjectPartition(p int) string { return "logic.p." + strconv.Itoa(p) }

// SubjectServer carries requests of job's followers to the owner of a partition; only job may publish to it.
func SubjectServer(p int) string { return "logic.s." + strconv.Itoa(p) }

// SubjectNode carries delivery batches to a comet or API node.
func SubjectNode(node string) string { return "comet." + node }

// SubjectPeer carries to a comet what another one may say to it: close this session, its device is connected here.
func SubjectPeer(node string) string { return "peer." + node }

// SubjectNodes carries to every comet and API node what a logic process has to say to all of them.
func SubjectNodes() string { return "comet" }

// SubjectProcess carries to a logic process what nodes say about their links with it.
func SubjectProcess(process string) string { return "logic.l." + process }

// SubjectLog is where the owner of a partition appends blocks from which nothing follows for users' logs and lists.
func SubjectLog(p int) string { return "log." + strconv.Itoa(p) + ".d" }

// SubjectLogUser is where it appends blocks with a join, a leave, the first message of a minute or a record of a user's log; the
// userlog follower reads only these.
func SubjectLogUser(p int) string { return "log." + strconv.Itoa(p) + ".u" }

// StreamLog is the name of the partition's stream.
func StreamLog(p int) string { return "LOG_" + strconv.Itoa(p) }
