package certs

// Look is what happens when the time for it has come.
func (s *Source) Look() { s.look(false) }
