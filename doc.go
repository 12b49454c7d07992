// Package dspool holds the words of the system: machines, pools, sizes, images,
// shares, users, jobs, tasks, attempts, claims, events and operations, with their
// states and transitions, and the one error type. It imports only the standard
// library. Nouns travel as they are: their JSON form is the API's form, so nothing
// that must not leave the server is a field of a noun.
//
// Units everywhere: memory and disk in bytes, cpus in cores (multiples of 0.001),
// times in UTC, durations in Go's form ("90s", "2h"), money in the pool's one
// currency per hour.
package dspool
