// Package api holds the requests, answers and agent-link messages around the
// nouns of package dspool. It is the source of the OpenAPI document.
package api
