// Command dspool is the one binary: server, agent, init and the user's commands.
package main

func main() {}
