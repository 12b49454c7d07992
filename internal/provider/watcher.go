package provider

// Watcher is for providers that learn at once when a machine's init dies.
type Watcher interface {
	// Exited yields the names of such machines, whatever killed them but Destroy. It is
	// a hint that makes the server look sooner: List has the truth.
	Exited() <-chan string
}
