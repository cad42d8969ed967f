package pebble

import "fmt"

// Config bounds the memory and the work of a store.
type Config struct {
	CacheBytes    int64 `koanf:"cache_bytes" doc:"Memory for blocks of history that were read before."`
	MemTableBytes int   `koanf:"memtable_bytes" doc:"Size of one table of recent writes in memory; they grow to it as needed, and up to two exist at once."`
	OpenFiles     int   `koanf:"open_files" doc:"Most files kept open."`
	Compactions   int   `koanf:"compactions" doc:"Most compactions at once; each takes up to one processor."`
}

// Default takes about 100 MB under load and a few MB without.
func Default() Config {
	return Config{CacheBytes: 32 << 20, MemTableBytes: 64 << 20, OpenFiles: 500, Compactions: 1}
}

// Validate names the first field at fault.
func (c Config) Validate() error {
	switch {
	case c.CacheBytes < 1<<20:
		return fmt.Errorf("cache_bytes: %d is less than 1 MiB", c.CacheBytes)
	// A batch above half of the table bypasses it, which is slow: the table must be far above a block of the log.
	case c.MemTableBytes < 2<<20 || c.MemTableBytes > 1<<30:
		return fmt.Errorf("memtable_bytes: %d is not between 2 MiB and 1 GiB", c.MemTableBytes)
	case c.OpenFiles < 100:
		return fmt.Errorf("open_files: %d is less than 100", c.OpenFiles)
	case c.Compactions < 1:
		return fmt.Errorf("compactions: %d is less than 1", c.Compactions)
	}
	return nil
}
