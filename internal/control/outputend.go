package control

import "fmt"

// Skip leaves out all but the last n bytes of what is written now, and returns the offset at which the rest
// begins.
func (o *Output) Skip(n int64) (int64, error) {
	if o.file == nil {
		return o.offset, nil
	}
	info, err := o.file.Stat()
	if err != nil {
		return o.offset, fmt.Errorf("look at output: %w", err)
	}
	o.offset = max(o.offset, info.Size()-n)
	return o.offset, nil
}
