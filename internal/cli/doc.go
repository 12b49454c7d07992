// Package cli is the user's side of dspool: the commands that talk to a server through
// package client, and nothing else. It prints tables for people and json or csv for
// programs, shows progress on a terminal, and turns errors into documented exit codes.
package cli
