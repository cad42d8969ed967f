package cassandra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/gocql/gocql"
)

// Tables of the migrator itself. They are checked for first: two nodes that create one table at the same time, each at its
// own coordinator, may disagree about its id for good.
const (
	createMigrations = `CREATE TABLE schema_migrations (scope text, version int, name text, checksum text, applied_at timestamp, PRIMARY KEY (scope, version))`
	createLock       = `CREATE TABLE schema_lock (name text PRIMARY KEY, owner text)`

	// All migrations are rows of one partition.
	scope = "halley"

	selectApplied = `SELECT version, name, checksum FROM schema_migrations WHERE scope = ?`
	insertApplied = `INSERT INTO schema_migrations (scope, version, name, checksum, applied_at) VALUES (?, ?, ?, ?, toTimestamp(now()))`
)

// Migrate brings the keyspace to the schema of this build, creating it where it is missing, and does nothing where there is
// nothing to do. Any number of nodes may call it at once once the keyspace exists; one works, the others wait. Only one may
// do so while there is no keyspace. It refuses (ErrSchema) a schema that is newer or was changed by hand.
func Migrate(ctx context.Context, cfg Config, log *slog.Logger) error {
	known, err := load(files)
	if err != nil {
		return err
	}
	return migrate(ctx, cfg, log, known)
}

func migrate(ctx context.Context, cfg Config, log *slog.Logger, known []migration) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("cassandra: %w", err)
	}
	if err := createKeyspace(ctx, cfg, log); err != nil {
		return err
	}
	session, err := connect(ctx, cfg, cfg.Keyspace, log)
	if err != nil {
		return err
	}
	defer session.Close()
	m := &migrator{session: session, cfg: cfg, log: log}
	if err := m.run(ctx, known); err != nil {
		return fmt.Errorf("cassandra: migrate keyspace %s: %w", cfg.Keyspace, classify(err))
	}
	return nil
}

// createKeyspace needs a session without one.
func createKeyspace(ctx context.Context, cfg Config, log *slog.Logger) error {
	session, err := connect(ctx, cfg, "", log)
	if err != nil {
		return err
	}
	defer session.Close()
	var found string
	err = session.Query(`SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?`, cfg.Keyspace).WithContext(ctx).
		Consistency(gocql.One).Scan(&found)
	if err == nil {
		return nil
	}
	if !errors.Is(err, gocql.ErrNotFound) {
		return fmt.Errorf("cassandra: look for keyspace %s: %w", cfg.Keyspace, classify(err))
	}
	replication := fmt.Sprintf("{'class': 'SimpleStrategy', 'replication_factor': %d}", cfg.Replicas)
	if cfg.LocalDC != "" {
		replication = fmt.Sprintf("{'class': 'NetworkTopologyStrategy', '%s': %d}", cfg.LocalDC, cfg.Replicas)
	}
	log.Info("creating keyspace", "keyspace", cfg.Keyspace, "replication", replication)
	err = session.Query(fmt.Sprintf("CREATE KEYSPACE IF NOT EXISTS %s WITH replication = %s", cfg.Keyspace, replication)).WithContext(ctx).Exec()
	if err == nil {
		err = session.AwaitSchemaAgreement(ctx)
	}
	if err != nil {
		return fmt.Errorf("cassandra: create keyspace %s: %w", cfg.Keyspace, classify(err))
	}
	return nil
}

// migrator works on one keyspace.
type migrator struct {
	session *gocql.Session
	cfg     Config
	log     *slog.Logger
}

func (m *migrator) run(ctx context.Context, known []migration) error {
	for name, create := range map[string]string{"schema_migrations": createMigrations, "schema_lock": createLock} {
		if err := m.createTable(ctx, name, create); err != nil {
			return err
		}
	}
	// Most starts find nothing to do and take no lock.
	applied, err := readApplied(ctx, m.session)
	if err != nil {
		return err
	}
	if missing, err := compare(known, applied); err != nil || len(missing) == 0 {
		return err
	}
	lock, err := acquireLock(ctx, m.session, m.log)
	if err != nil {
		return err
	}
	// Even when ctx has ended: another node waits for it.
	defer lock.release(context.WithoutCancel(ctx))
	// Somebody else may have done it while we waited.
	if applied, err = readApplied(ctx, m.session); err != nil {
		return err
	}
	missing, err := compare(known, applied)
	if err != nil {
		return err
	}
	for _, mig := range missing {
		if err := m.apply(ctx, lock, mig); err != nil {
			return fmt.Errorf("%s: %w", mig.name, err)
		}
	}
	return nil
}

func (m *migrator) createTable(ctx context.Context, name, create string) error {
	exists, err := hasTable(ctx, m.session, m.cfg.Keyspace, name)
	if err != nil || exists {
		return err
	}
	var there *gocql.RequestErrAlreadyExists
	if err := m.ddl(ctx, create); err != nil && !errors.As(err, &there) {
		return fmt.Errorf("create %s: %w", name, err)
	}
	return nil
}

// apply renews the lock before each statement, for one takes seconds on a large cluster, and notes the migration when all of
// it is done. A migration that was cut off is repeated from its start.
func (m *migrator) apply(ctx context.Context, lock *schemaLock, mig migration) error {
	m.log.Info("applying migration", "keyspace", m.cfg.Keyspace, "migration", mig.name, "statements", len(mig.statements))
	for i, stmt := range mig.statements {
		if err := lock.renew(ctx); err != nil {
			return err
		}
		if err := m.ddl(ctx, stmt); err != nil {
			return fmt.Errorf("statement %d: %w", i+1, err)
		}
	}
	if err := lock.renew(ctx); err != nil {
		return err
	}
	return m.session.Query(insertApplied, scope, mig.version, mig.name, mig.checksum).WithContext(ctx).Exec()
}

// ddl waits until all nodes know the change.
func (m *migrator) ddl(ctx context.Context, stmt string) error {
	if err := m.session.Query(stmt).WithContext(ctx).RetryPolicy(nil).Exec(); err != nil {
		return err
	}
	return m.session.AwaitSchemaAgreement(ctx)
}

// checkSchema is what a node does at its start.
func checkSchema(ctx context.Context, session *gocql.Session, known []migration) error {
	applied, err := readApplied(ctx, session)
	var refused gocql.RequestError
	if errors.As(err, &refused) && refused.Code() == gocql.ErrCodeInvalid {
		return fmt.Errorf("%w: it has no table schema_migrations; run the migration", ErrSchema)
	}
	if err != nil {
		return classify(err)
	}
	missing, err := compare(known, applied)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: it is at version %d and this build needs %d; run the migration", ErrSchema, len(applied), len(known))
	}
	return nil
}

func hasTable(ctx context.Context, session *gocql.Session, keyspace, table string) (bool, error) {
	var found string
	err := session.Query(`SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?`, keyspace, table).
		WithContext(ctx).Consistency(gocql.One).Scan(&found)
	if errors.Is(err, gocql.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func readApplied(ctx context.Context, session *gocql.Session) (map[int]migration, error) {
	applied := map[int]migration{}
	scanner := session.Query(selectApplied, scope).WithContext(ctx).Iter().Scanner()
	for scanner.Next() {
		var mig migration
		if err := scanner.Scan(&mig.version, &mig.name, &mig.checksum); err != nil {
			return nil, errors.Join(err, scanner.Err())
		}
		applied[mig.version] = mig
	}
	return applied, scanner.Err()
}
