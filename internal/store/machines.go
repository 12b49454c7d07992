package store

import (
	"strconv"
	"time"

	"github.com/dspool/dspool"
)

// What UpdateMachine may change; the rest is fixed when the machine is inserted, for the bill is
// made from it.
const (
	machineFixed   = `name, pool, size, cpus, memory, gpus, disk, price, created, image_key`
	machineChanges = `image, state, reason, failure, cordoned, drain_by, health, health_reason, address, ready_at, ended, ` +
		`token_hash, agent_key, seen, remove, tries, retry_at, agent_ready, host_key`
	machineLive = `state NOT IN ('gone', 'failed')` // as the partial index says it
)

func machineChangeArgs(m MachineRow) []any {
	return []any{m.Image, m.State, reason(m.Reason), reason(m.Failure), m.Cordoned, micros(m.DrainBy), m.Health, reason(m.HealthReason), m.Address,
		micros(m.ReadyAt), micros(m.Ended), m.TokenHash, m.AgentKey, stored(m.Seen), reason(m.Remove), m.Tries, stored(m.RetryAt), m.AgentReady, m.HostKey}
}

func scanMachine(r row, m *MachineRow) error {
	var cpus int64
	err := r.Scan(&m.Name, &m.Pool, &m.Size, &cpus, &m.Memory, &m.GPUs, &m.Disk, &m.Price, timeIn{&m.Created}, &m.ImageKey,
		&m.Image, &m.State, reasonIn{&m.Reason}, reasonIn{&m.Failure}, &m.Cordoned, maybeIn{&m.DrainBy}, &m.Health, reasonIn{&m.HealthReason}, &m.Address,
		maybeIn{&m.ReadyAt}, maybeIn{&m.Ended}, &m.TokenHash, &m.AgentKey, timeIn{&m.Seen}, reasonIn{&m.Remove}, &m.Tries,
		timeIn{&m.RetryAt}, &m.AgentReady, &m.HostKey, maybeIn{&m.IdleSince}, timeIn{&m.Sighted})
	m.CPUs = fromMilli(cpus)
	return err
}

// NextMachineName gives the next name of a machine of pool: "batch-1", "batch-2" and so on; no
// name is given twice, even if the pool was deleted meanwhile.
func (tx *Tx) NextMachineName(pool string) (string, error) {
	var n int64
	err := tx.change(`INSERT INTO machine_numbers (pool, number) VALUES (?, 1)
		ON CONFLICT (pool) DO UPDATE SET number = machine_numbers.number + 1 RETURNING number`, []any{pool},
		func(r row) error { return r.Scan(&n) })
	return pool + "-" + strconv.FormatInt(n, 10), wrap(err, "number a machine of pool %s", pool)
}

// InsertMachine adds a machine, created now unless it says otherwise; Conflict if its name was
// used before. Used, Claims, IdleSince and Sighted are the store's to know and not read from m.
func (tx *Tx) InsertMachine(m MachineRow) error {
	if m.Created.IsZero() {
		m.Created = tx.now
	}
	if err := tx.unfoldNew(&m.Created); err != nil {
		return err
	}
	tx.last.machine++
	args := append([]any{tx.last.machine, m.Name, m.Pool, m.Size, toMilli(m.CPUs), m.Memory, m.GPUs, m.Disk, m.Price, stored(m.Created), m.ImageKey},
		machineChangeArgs(m)...)
	_, err := tx.exec(`INSERT INTO machines (id, `+machineFixed+`, `+machineChanges+`, revision, until)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)`, append(args, tx.until(m.Ended))...)
	if unique(err) {
		return dspool.Errorf(dspool.Conflict, "machine %s exists already, or did", m.Name)
	}
	return wrap(err, "insert machine %s", m.Name)
}

// UpdateMachine changes a machine; NotFound if there is none of its name. Pool, size, resources,
// disk, price, creation time and image key stay what they were inserted as.
func (tx *Tx) UpdateMachine(m MachineRow) error {
	if err := tx.unfoldChanged(nil, m.Ended, `SELECT NULL, ended, until FROM machines WHERE name = ?`, m.Name); err != nil {
		return wrap(err, "update machine %s", m.Name)
	}
	n, err := tx.exec(`UPDATE machines SET (`+machineChanges+`) = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?), `+untilEnded+` WHERE name = ?`,
		append(machineChangeArgs(m), micros(m.Ended), tx.until(m.Ended), m.Name)...)
	if err == nil && n == 0 {
		return notFound("machine", m.Name)
	}
	return wrap(err, "update machine %s", m.Name)
}

// Sight notes when machines were last seen to be there; names of others are passed over.
func (tx *Tx) Sight(names []string, at time.Time) error {
	for _, name := range names {
		if _, err := tx.exec(`UPDATE machines SET sighted = ? WHERE name = ? AND `+machineLive, stored(at), name); err != nil {
			return wrap(err, "note sight of machine %s", name)
		}
	}
	return nil
}

// Machine returns the machine called name, also one that has ended; NotFound if there never was one.
func (tx *Tx) Machine(name string) (MachineRow, error) {
	// Every revision is from 0 on: it keeps the database on the index of what is held now.
	ms, err := tx.machines(`name = ?`, []any{name}, ``, `AND machine = ? AND revision >= 0`, name)
	if err != nil || len(ms) == 0 {
		if err == nil {
			err = notFound("machine", name)
		}
		return MachineRow{}, wrap(err, "read machine %s", name)
	}
	return ms[0], nil
}

// LiveMachines returns the machines of which something may be left on a host, oldest first.
func (tx *Tx) LiveMachines() ([]MachineRow, error) {
	ms, err := tx.machines(machineLive, nil, `ORDER BY id`, ``)
	return ms, wrap(err, "list live machines")
}

// Machines returns machines, newest first: of one pool or, if pool is "", of all; those that have
// ended only if all is set; at most limit, where 0 is no limit.
func (tx *Tx) Machines(pool string, all bool, most int) ([]MachineRow, error) {
	where, args := `1 = 1`, []any(nil)
	if !all {
		where = machineLive
	}
	if pool != "" {
		where, args = where+` AND pool = ?`, append(args, pool)
	}
	ms, err := tx.machines(where, append(args, limit(most)), `ORDER BY id DESC LIMIT ?`, ``)
	return ms, wrap(err, "list machines")
}

// machines returns the machines of a condition with what their open claims and sessions say of
// them; claims narrows those.
func (tx *Tx) machines(where string, args []any, order, claims string, claimArgs ...any) ([]MachineRow, error) {
	ms, err := list(tx, scanMachine, `SELECT `+machineFixed+`, `+machineChanges+`, claim_ended, sighted FROM machines WHERE `+where+` `+order, args...)
	if err != nil || len(ms) == 0 {
		return ms, err
	}
	type use struct {
		n   int
		sum dspool.Resources
	}
	uses := make(map[string]use, len(ms))
	for _, held := range []string{`claims WHERE ended IS NULL `, `sessions WHERE ` + sessionPlaced + ` `} {
		err := tx.each(`SELECT machine, count(*), sum(cpus), sum(memory), sum(gpus) FROM `+held+claims+` GROUP BY machine`, claimArgs, func(r row) error {
			var name string
			var u use
			var cpus int64
			err := r.Scan(&name, &u.n, &cpus, &u.sum.Memory, &u.sum.GPUs)
			u.sum.CPUs = fromMilli(cpus)
			uses[name] = use{u.n + uses[name].n, u.sum.Add(uses[name].sum)}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for i := range ms {
		m := &ms[i]
		u := uses[m.Name]
		m.Used, m.Claims = u.sum, u.n
		m.IdleSince = idleSince(m.Machine, m.IdleSince)
	}
	return ms, nil
}

// idleSince is the later of when m became ready and when its last claim or session ended; nil while
// it has any, before it is ready and once it has ended.
func idleSince(m dspool.Machine, claimEnded *time.Time) *time.Time {
	switch {
	case m.Claims > 0 || m.ReadyAt == nil || m.State.Ended():
		return nil
	case claimEnded != nil && claimEnded.After(*m.ReadyAt):
		return claimEnded
	}
	ready := *m.ReadyAt
	return &ready
}
