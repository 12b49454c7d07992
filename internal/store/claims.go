package store

import (
	"fmt"
	"time"

	"github.com/dspool/dspool"
)

func (tx *Tx) insertClaim(c *ClaimRow) error {
	if err := tx.unfoldNew(c.Started); err != nil {
		return err
	}
	_, err := tx.exec(`INSERT INTO claims (attempt, rank, machine, cpus, memory, gpus, desired, why, revision, started, ended, until)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		c.Attempt, c.Rank, c.Machine, toMilli(c.Request.CPUs), c.Request.Memory, c.Request.GPUs,
		string(c.Desired), reason(c.Why), c.Revision, micros(c.Started), micros(c.Ended), tx.until(c.Ended))
	return err
}

// updateClaim writes a claim's start and end and notes in freed when it ended.
func (tx *Tx) updateClaim(attempt int64, c ClaimRow, freed map[string]int64) error {
	if err := tx.unfoldChanged(c.Started, c.Ended, `SELECT started, ended, until FROM claims WHERE attempt = ? AND rank = ?`, attempt, c.Rank); err != nil {
		return err
	}
	n, err := tx.exec(`UPDATE claims SET started = ?, ended = ?, `+untilEnded+` WHERE attempt = ? AND rank = ?`,
		micros(c.Started), micros(c.Ended), micros(c.Ended), tx.until(c.Ended), attempt, c.Rank)
	if err == nil && n == 0 {
		return dspool.Errorf(dspool.NotFound, "attempt %d has no claim of rank %d", attempt, c.Rank)
	}
	if c.Ended != nil {
		freed[c.Machine] = max(freed[c.Machine], c.Ended.UnixMicro())
	}
	return err
}

// endClaims ends what an attempt still holds.
func (tx *Tx) endClaims(attempt int64, at time.Time, freed map[string]int64) error {
	if err := tx.unfoldNew(&at); err != nil {
		return err
	}
	return tx.change(`UPDATE claims SET ended = ?, until = ? WHERE attempt = ? AND ended IS NULL RETURNING machine`, []any{stored(at), tx.until(&at), attempt}, func(r row) error {
		var machine string
		err := r.Scan(&machine)
		freed[machine] = max(freed[machine], at.UnixMicro())
		return err
	})
}

// free notes when claims on machines ended.
func (tx *Tx) free(ended map[string]int64) error {
	for machine, at := range ended {
		_, err := tx.exec(`UPDATE machines SET claim_ended = ? WHERE name = ? AND (claim_ended IS NULL OR claim_ended < ?)`, at, machine, at)
		if err != nil {
			return wrap(err, "note the end of claims on %s", machine)
		}
	}
	return nil
}

// revise notes that the latest revision was given to claims on these machines.
func (tx *Tx) revise(machines map[string]bool) error {
	for machine := range machines {
		n, err := tx.exec(`UPDATE machines SET revision = ? WHERE name = ?`, tx.last.revision, machine)
		if err == nil && n == 0 {
			err = notFound("machine", machine)
		}
		if err != nil {
			return wrap(err, "revise claims on %s", machine)
		}
	}
	return nil
}

// machineRevision returns the latest revision given to what is wanted on a machine.
func (tx *Tx) machineRevision(machine string) (revision int64, err error) {
	err = tx.scan(`SELECT revision FROM machines WHERE name = ?`, []any{machine}, &revision)
	if err == errNoRow {
		err = notFound("machine", machine)
	}
	return revision, wrap(err, "read revision of %s", machine)
}

// SetDesired changes what is wanted of attempts, and why, in all their claims that have not
// ended. Claims that change get one new revision; the others keep theirs, so asking again for the same
// tells agents nothing new.
func (tx *Tx) SetDesired(ids []int64, d Desired, because dspool.Reason) error {
	why := reason(because)
	revision := tx.last.revision + 1
	machines := map[string]bool{}
	err := chunks(`UPDATE claims SET desired = ?, why = ?, revision = ?
		WHERE ended IS NULL AND (desired <> ? OR why <> ?) AND attempt IN (?) RETURNING machine`, ids, func(query string, args []any) error {
		return tx.change(query, append([]any{string(d), why, revision, string(d), why}, args...), func(r row) error {
			var machine string
			err := r.Scan(&machine)
			machines[machine] = true
			return err
		})
	})
	if err != nil {
		return wrap(err, "set what is wanted of attempts")
	}
	if len(machines) == 0 {
		return nil
	}
	tx.last.revision = revision
	return tx.revise(machines)
}

// ClaimsSince returns the attempts, by identifier, that have a claim on machine which has not ended
// and whose revision is above after, and the highest revision given out for that machine so far:
// the after of the next question. Sessions on it have their revisions from the same count. NotFound if there is no such machine.
func (tx *Tx) ClaimsSince(machine string, after int64) (rows []AttemptRow, revision int64, err error) {
	revision, err = tx.machineRevision(machine)
	if err != nil || revision <= after {
		return nil, revision, err
	}
	rows, err = tx.attempts(openSince, machine, after)
	if err != nil {
		return nil, 0, fmt.Errorf("list claims on %s: %w", machine, err)
	}
	return rows, revision, nil
}
