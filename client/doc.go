// Package client is the Go client of dspool's REST API. Every method is one endpoint,
// takes a context and returns errors that errors.As turns into *dspool.Error (code, sentence,
// hint) and, where the server answered, into *Error (also the list of single problems).
//
// Calls that may be repeated without harm are, when the connection breaks or the server is
// just restarting. Streams (StreamJob, StreamEvents, Output with Follow) go on where they
// broke off.
package client
