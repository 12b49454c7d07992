package webdoor

import "strings"

// trie finds the route with the longest path that a request's path begins with, element by element.
// It is not safe for concurrent use.
type trie struct {
	route    *route
	branches map[string]*trie
}

// cutElement splits off a path's first element; slashes around the path do not count.
func cutElement(path string) (element, rest string) {
	element, rest, _ = strings.Cut(path, "/")
	return element, rest
}

func trimSlashes(path string) string { return strings.Trim(path, "/") }

func (t *trie) add(path string, r *route) {
	for path = trimSlashes(path); path != ""; {
		var element string
		element, path = cutElement(path)
		child := t.branches[element]
		if child == nil {
			child = &trie{}
			if t.branches == nil {
				t.branches = map[string]*trie{}
			}
			t.branches[element] = child
		}
		t = child
	}
	t.route = r
}

func (t *trie) remove(path string) {
	path = trimSlashes(path)
	if path == "" {
		t.route = nil
		return
	}
	element, rest := cutElement(path)
	child := t.branches[element]
	if child == nil {
		return
	}
	child.remove(rest)
	if child.route == nil && len(child.branches) == 0 {
		delete(t.branches, element)
	}
}

// find returns the most specific route at or above path, or nil.
func (t *trie) find(path string) *route {
	found := t.route
	for path = trimSlashes(path); path != ""; {
		var element string
		element, path = cutElement(path)
		if t = t.branches[element]; t == nil {
			break
		}
		if t.route != nil {
			found = t.route
		}
	}
	return found
}

// child is where an element leads, or nil.
func (t *trie) child(element string) *trie {
	if t == nil {
		return nil
	}
	return t.branches[element]
}
