// Package initd is PID 1 of a machine: it spawns attempts as their users in cgroups of their
// own, reaps, keeps every result until it is forgotten, and restarts the agent when it dies.
// Its table of attempts is the agent's journal: killing the agent kills and loses nothing.
//
// It serves root, and nobody else, on a unix socket: JSON values in both directions, requests
// with an identifier and a reply to each in any order (see wire.go). Client speaks it.
//
// It also holds the cgroups of users' sessions, which logins join and whose content it ends,
// and keeps services such as sshd running, whatever becomes of the agent.
//
// In a session it runs apps, programs with a page of their own such as a notebook server, as the user,
// and keeps of each whatever became of it, in the same way as of attempts.
//
// There is no process per attempt beside the attempt's own. Slots, the cgroups of attempts, are
// kept and used again, because making one costs more than spawning a process.
package initd
