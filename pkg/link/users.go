package link

// Users are some users by their hashes. Of two with one hash both are meant.
type Users map[uint64]struct{}

// MaxUsers bounds what is told at once; where there are more, everybody is meant.
const MaxUsers = 1 << 16

// Add adds a user of an app.
func (u Users) Add(app, user string) { u[hashUser(app, user)] = struct{}{} }

// Has reports whether the user is one of them.
func (u Users) Has(app, user string) bool {
	_, ok := u[hashUser(app, user)]
	return ok
}

// hashUser is FNV-1a, 64 bits (RFC 9923), of both names with a zero byte between. It is the same in all processes.
func hashUser(app, user string) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := range len(app) {
		h = (h ^ uint64(app[i])) * prime
	}
	h *= prime // The zero byte.
	for i := range len(user) {
		h = (h ^ uint64(user[i])) * prime
	}
	return h
}
