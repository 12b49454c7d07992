// Package store holds the durable state of an installation.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/dspool/dspool"
)

var errTodo = errors.New("store: not built yet")

type (
	Store  struct{}
	Option func(*Store)
	Tx     struct{}

	JobFilter struct {
		User, Pool string
		States     []dspool.JobState
		Before     int64
		Limit      int
	}
	TaskFilter struct {
		State dspool.TaskState
		After int64
		Limit int
	}
	EventFilter struct {
		After         int64
		Limit         int
		Pool, Machine string
		Job           int64
		User          string
		Latest        bool
	}
)

func WithClock(func() time.Time) Option { return func(*Store) {} }

func Open(ctx context.Context, path string, opts ...Option) (*Store, error) { return nil, errTodo }
func (s *Store) Close() error                                               { return errTodo }
func (s *Store) Installation() string                                       { return "" }
func (s *Store) Write(ctx context.Context, fn func(*Tx) error) error        { return errTodo }
func (s *Store) Read(ctx context.Context, fn func(*Tx) error) error         { return errTodo }
func (tx *Tx) Now() time.Time                                               { return time.Time{} }
func (tx *Tx) Setting(key string) (string, error)                           { return "", errTodo }
func (tx *Tx) SetSetting(key, value string) error                           { return errTodo }
func (tx *Tx) Pools() ([]dspool.Pool, error)                                { return nil, errTodo }
func (tx *Tx) Pool(name string) (dspool.Pool, error)                        { return dspool.Pool{}, errTodo }
func (tx *Tx) PutPool(p dspool.Pool) error                                  { return errTodo }
func (tx *Tx) DeletePool(name string) error                                 { return errTodo }
func (tx *Tx) Sizes() ([]dspool.Size, error)                                { return nil, errTodo }
func (tx *Tx) Size(name string) (dspool.Size, error)                        { return dspool.Size{}, errTodo }
func (tx *Tx) PutSize(p dspool.Size) error                                  { return errTodo }
func (tx *Tx) DeleteSize(name string) error                                 { return errTodo }
func (tx *Tx) Shares() ([]dspool.Share, error)                              { return nil, errTodo }
func (tx *Tx) Share(name string) (dspool.Share, error)                      { return dspool.Share{}, errTodo }
func (tx *Tx) PutShare(p dspool.Share) error                                { return errTodo }
func (tx *Tx) DeleteShare(name string) error                                { return errTodo }
func (tx *Tx) Images() ([]dspool.Image, error)                              { return nil, errTodo }
func (tx *Tx) Image(name string) (dspool.Image, error)                      { return dspool.Image{}, errTodo }
func (tx *Tx) PutImage(p dspool.Image) error                                { return errTodo }
func (tx *Tx) DeleteImage(name string) error                                { return errTodo }
func (tx *Tx) Users() ([]dspool.User, error)                                { return nil, errTodo }
func (tx *Tx) User(name string) (dspool.User, error)                        { return dspool.User{}, errTodo }
func (tx *Tx) AddUser(name string, admin bool, ids dspool.UIDRange) (dspool.User, error) {
	return dspool.User{}, errTodo
}
func (tx *Tx) SetAdmin(name string, admin bool) error        { return errTodo }
func (tx *Tx) RemoveUser(name string) error                  { return errTodo }
func (tx *Tx) AddToken(t dspool.Token, hash string) error    { return errTodo }
func (tx *Tx) Tokens(user string) ([]dspool.Token, error)    { return nil, errTodo }
func (tx *Tx) Token(id string) (dspool.Token, error)         { return dspool.Token{}, errTodo }
func (tx *Tx) DeleteToken(id string) error                   { return errTodo }
func (tx *Tx) TokenByHash(hash string) (dspool.Token, error) { return dspool.Token{}, errTodo }
func (tx *Tx) TouchToken(id string, at time.Time) error      { return errTodo }
func (tx *Tx) NextMachineName(pool string) (string, error)   { return "", errTodo }
func (tx *Tx) InsertMachine(m MachineRow) error              { return errTodo }
func (tx *Tx) UpdateMachine(m MachineRow) error              { return errTodo }
func (tx *Tx) Machine(name string) (MachineRow, error)       { return MachineRow{}, errTodo }
func (tx *Tx) LiveMachines() ([]MachineRow, error)           { return nil, errTodo }
func (tx *Tx) Machines(pool string, all bool, limit int) ([]MachineRow, error) {
	return nil, errTodo
}
func (tx *Tx) InsertJob(j *JobRow) error                            { return errTodo }
func (tx *Tx) UpdateJob(j JobRow) error                             { return errTodo }
func (tx *Tx) Job(id int64) (JobRow, error)                         { return JobRow{}, errTodo }
func (tx *Tx) JobsByID(ids []int64) (map[int64]JobRow, error)       { return nil, errTodo }
func (tx *Tx) JobByKey(user, key string) (JobRow, bool, error)      { return JobRow{}, false, errTodo }
func (tx *Tx) OpenJobs() ([]JobRow, error)                          { return nil, errTodo }
func (tx *Tx) Jobs(f JobFilter) ([]JobRow, error)                   { return nil, errTodo }
func (tx *Tx) JobsAfter(id int64) ([]int64, error)                  { return nil, errTodo }
func (tx *Tx) InsertAttempts(as []AttemptRow) ([]AttemptRow, error) { return nil, errTodo }
func (tx *Tx) Attempts(ids []int64) ([]AttemptRow, error)           { return nil, errTodo }
func (tx *Tx) UpdateAttempts(as []AttemptRow) error                 { return errTodo }
func (tx *Tx) DeleteAttempts(ids []int64) error                     { return errTodo }
func (tx *Tx) SetDesired(ids []int64, d Desired, why string) error  { return errTodo }
func (tx *Tx) OpenAttempts(machine string) ([]AttemptRow, error)    { return nil, errTodo }
func (tx *Tx) OpenAttemptsOfJob(job int64) ([]AttemptRow, error)    { return nil, errTodo }
func (tx *Tx) ClaimsSince(machine string, after int64) (rows []AttemptRow, revision int64, err error) {
	return nil, 0, errTodo
}
func (tx *Tx) Tasks(job int64, f TaskFilter) ([]dspool.Task, error)           { return nil, errTodo }
func (tx *Tx) Task(job, index int64) (dspool.Task, bool, error)               { return dspool.Task{}, false, errTodo }
func (tx *Tx) AddEvent(e dspool.Event) error                                  { return errTodo }
func (tx *Tx) Events(f EventFilter) ([]dspool.Event, error)                   { return nil, errTodo }
func (tx *Tx) PruneEvents(before time.Time) (int64, error)                    { return 0, errTodo }
func (tx *Tx) PutOperation(o dspool.Operation) error                          { return errTodo }
func (tx *Tx) Operation(id string) (dspool.Operation, error)                  { return dspool.Operation{}, errTodo }
func (tx *Tx) RunningOperations() ([]dspool.Operation, error)                 { return nil, errTodo }
func (tx *Tx) MachineIntervals(from, to time.Time) ([]MachineInterval, error) { return nil, errTodo }
func (tx *Tx) ClaimIntervals(from, to time.Time) ([]ClaimInterval, error)     { return nil, errTodo }
