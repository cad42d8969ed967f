package cassandra

// SchemaVersion is the version of the schema that this build works with: that of its last migration.
func SchemaVersion() int {
	known, err := load(files)
	if err != nil {
		panic(err) // The files are part of the binary, and tests load them.
	}
	return known[len(known)-1].version
}
