package storetest

import (
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/testkit"
)

var small = dspool.Resources{CPUs: 1, Memory: 2 << 30}

// addMachine adds the next machine of a pool, ready since at(0).
func addMachine(t *testing.T, s *store.Store, pool string) (m store.MachineRow) {
	t.Helper()
	write(t, s, func(tx *store.Tx) error {
		name, err := tx.NextMachineName(pool)
		if err != nil {
			return err
		}
		m = store.MachineRow{Machine: dspool.Machine{Name: name, Pool: pool, Size: "small", Resources: small, Price: 0.5,
			State: dspool.Ready, Health: dspool.Healthy, Created: at(0), ReadyAt: ptr(at(0))}}
		return tx.InsertMachine(m)
	})
	return m
}

func machine(t *testing.T, s *store.Store, name string) store.MachineRow {
	t.Helper()
	return get(t, s, func(tx *store.Tx) (store.MachineRow, error) { return tx.Machine(name) })
}

func names(ms []store.MachineRow) (out []string) {
	for _, m := range ms {
		out = append(out, m.Name)
	}
	return out
}

var machines = []check{
	{"a machine comes back as it was inserted and updated", func(t *testing.T, s *store.Store) {
		m := store.MachineRow{Machine: dspool.Machine{Name: "batch-1", Pool: "batch", Size: "small", Resources: dspool.Resources{CPUs: 0.1, Memory: 1 << 40, GPUs: 2},
			Price: 0.07, Image: "UbuntuDSVM", State: dspool.Creating, Reason: testkit.Stated("job 1 waits"), Health: dspool.HealthUnknown, Created: at(1)},
			Disk: 10 << 30, TokenHash: "ab"}
		write(t, s, func(tx *store.Tx) error { return tx.InsertMachine(m) })
		same(t, machine(t, s, "batch-1"), m)
		m.State, m.Failure, m.Cordoned, m.DrainBy = dspool.Destroying, testkit.Stated("no answer"), true, ptr(at(2))
		m.Health, m.HealthReason, m.Address = dspool.Unhealthy, testkit.Stated("disk full"), "10.1.0.2"
		m.AgentKey, m.Seen, m.Remove, m.Tries, m.RetryAt, m.AgentReady = "cd", at(3), testkit.Stated("asked"), 4, at(5), true
		m.Reason, m.TokenHash, m.Image, m.HostKey = dspool.Why(dspool.WhyIdleUnhealthy, dspool.ReasonParams{Time: dspool.Duration(6e10)}).With(testkit.Stated("disk full")), "", "other", "ssh-ed25519 AAAA"
		write(t, s, func(tx *store.Tx) error { return tx.UpdateMachine(m) })
		same(t, machine(t, s, "batch-1"), m)
	}},
	{"what the bill is made from stays as inserted", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		changed := m
		changed.Price, changed.Pool, changed.Size, changed.Created, changed.Disk = 99, "lab", "big", at(9), 7
		changed.Resources = dspool.Resources{CPUs: 9}
		write(t, s, func(tx *store.Tx) error { return tx.UpdateMachine(changed) })
		m.IdleSince = ptr(at(0))
		same(t, machine(t, s, m.Name), m)
	}},
	{"a machine's name is never given or taken again", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		m.State, m.Ended = dspool.Gone, ptr(at(2))
		write(t, s, func(tx *store.Tx) error { return tx.UpdateMachine(m) })
		refused(t, s, dspool.Conflict, func(tx *store.Tx) error { return tx.InsertMachine(m) })
		write(t, s, func(tx *store.Tx) error { return tx.DeletePool("batch") })
		same(t, []string{m.Name, addMachine(t, s, "batch").Name, addMachine(t, s, "lab").Name, addMachine(t, s, "batch").Name},
			[]string{"batch-1", "batch-2", "lab-1", "batch-3"})
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error {
			return tx.UpdateMachine(store.MachineRow{Machine: dspool.Machine{Name: "no"}})
		})
		missing(t, s, func(tx *store.Tx) error { _, err := tx.Machine("no"); return err })
	}},
	{"a machine that has not ended keeps when it was last seen", func(t *testing.T, s *store.Store) {
		there, gone := addMachine(t, s, "batch"), addMachine(t, s, "batch")
		gone.State, gone.Ended = dspool.Gone, ptr(at(2))
		write(t, s, func(tx *store.Tx) error { return tx.UpdateMachine(gone) })
		write(t, s, func(tx *store.Tx) error { return tx.Sight([]string{there.Name, gone.Name, "no"}, at(3)) })
		write(t, s, func(tx *store.Tx) error { return tx.UpdateMachine(there) })
		same(t, machine(t, s, there.Name).Sighted, at(3))
		same(t, machine(t, s, gone.Name).Sighted.IsZero(), true)
	}},
	{"lists hold the machines they should, in order", func(t *testing.T, s *store.Store) {
		for range 11 {
			addMachine(t, s, "a")
		}
		addMachine(t, s, "b")
		for name, state := range map[string]dspool.MachineState{"a-1": dspool.Gone, "a-2": dspool.Failed, "a-3": dspool.Destroying, "a-4": dspool.Stopped} {
			m := machine(t, s, name)
			m.State = state
			write(t, s, func(tx *store.Tx) error { return tx.UpdateMachine(m) })
		}
		live := get(t, s, (*store.Tx).LiveMachines)
		same(t, names(live), []string{"a-3", "a-4", "a-5", "a-6", "a-7", "a-8", "a-9", "a-10", "a-11", "b-1"})
		list := func(pool string, all bool, limit int) []string {
			return names(get(t, s, func(tx *store.Tx) ([]store.MachineRow, error) { return tx.Machines(pool, all, limit) }))
		}
		same(t, list("", false, 3), []string{"b-1", "a-11", "a-10"})
		same(t, list("a", true, 2), []string{"a-11", "a-10"})
		same(t, list("b", true, 0), []string{"b-1"})
		same(t, len(list("a", true, 0)), 11)
		same(t, len(list("a", false, 0)), 9)
		same(t, list("c", true, 0), nil)
	}},
	{"a machine is idle since it became ready or its last claim ended, and not while it has claims", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		same(t, machine(t, s, m.Name).IdleSince, ptr(at(0)))
		as := place(t, s, 1, m.Name, 0, 1)
		busy := machine(t, s, m.Name)
		same(t, busy.IdleSince, nil)
		same(t, busy.Claims, 2)
		same(t, busy.Used, dspool.Resources{CPUs: 0.2, Memory: 1 << 30, GPUs: 2})

		end(t, s, as[:1], at(20))
		same(t, machine(t, s, m.Name).IdleSince, nil)
		same(t, machine(t, s, m.Name).Used, dspool.Resources{CPUs: 0.1, Memory: 1 << 29, GPUs: 1})
		end(t, s, as[1:], at(10)) // reported later, but ended earlier
		for _, m := range append(get(t, s, (*store.Tx).LiveMachines), machine(t, s, m.Name)) {
			same(t, m.IdleSince, ptr(at(20)))
			same(t, m.Claims, 0)
			same(t, m.Used, dspool.Resources{})
		}

		// The agent's next word does not make it forget.
		m.Seen = at(30)
		write(t, s, func(tx *store.Tx) error { return tx.UpdateMachine(m) })
		same(t, machine(t, s, m.Name).IdleSince, ptr(at(20)))
		m.ReadyAt = ptr(at(40))
		write(t, s, func(tx *store.Tx) error { return tx.UpdateMachine(m) })
		same(t, machine(t, s, m.Name).IdleSince, ptr(at(40)))
		m.ReadyAt = nil
		write(t, s, func(tx *store.Tx) error { return tx.UpdateMachine(m) })
		same(t, machine(t, s, m.Name).IdleSince, nil)
	}},
}
