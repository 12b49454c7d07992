package dspool

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// ReasonCode names a kind of reason for programs; docs/reasons.md lists them all.
type ReasonCode string

// Reason says why something is as it is: a code, its parameters and, once For has been asked, a
// sentence. Code decides by Code and parameters and never reads Text. The zero Reason is none.
type Reason struct {
	Code ReasonCode `json:"code" doc:"What kind of reason it is; docs/reasons.md explains each."`
	Text string     `json:"text,omitempty" doc:"The reason as a sentence for whoever asked."`
	ReasonParams
	Because []Reason `json:"because,omitempty" doc:"The reasons behind it, in the order in which the sentence names them."`
}

// ReasonParams are the parameters of a reason. A code uses some of them.
type ReasonParams struct {
	User     string    `json:"user,omitempty" doc:"Whose need or thing it is; left out for other users."`
	Job      int64     `json:"job,omitempty" doc:"A job of that user; left out for other users."`
	By       string    `json:"by,omitempty" doc:"Who did it."`
	Pool     string    `json:"pool,omitempty"`
	Machine  string    `json:"machine,omitempty"`
	Size     string    `json:"size,omitempty"`
	Name     string    `json:"name,omitempty" doc:"An image, app, program, signal or state, as the code says."`
	Terminal string    `json:"terminal,omitempty"`
	Count    int64     `json:"count,omitempty"`
	Limit    int64     `json:"limit,omitempty"`
	Port     int       `json:"port,omitempty"`
	Bytes    int64     `json:"bytes,omitempty"`
	Time     Duration  `json:"time,omitempty"`
	Within   Duration  `json:"within,omitempty" doc:"The limit of a time."`
	Since    Time      `json:"since,omitzero"`
	Request  Resources `json:"request,omitzero"`
	Used     Resources `json:"used,omitzero"`
	Capacity Resources `json:"capacity,omitzero"`
	Detail   string    `json:"detail,omitempty" doc:"What a program or the host said; for administrators and the user whose thing it is."`
}

// Viewer is for whom a sentence is written.
type Viewer struct {
	User  string // "" is nobody: a viewer who knows no user
	Admin bool
}

// Why makes a reason.
func Why(code ReasonCode, p ReasonParams) Reason { return Reason{Code: code, ReasonParams: p} }

// IsZero says whether there is no reason.
func (r Reason) IsZero() bool { return r.Code == "" }

// Known says whether the code has a sentence.
func (r Reason) Known() bool { return sentences[r.Code].pattern != "" }

// Equal compares codes and parameters, not sentences.
func (r Reason) Equal(o Reason) bool {
	return r.Code == o.Code && r.ReasonParams == o.ReasonParams && slices.EqualFunc(r.Because, o.Because, Reason.Equal)
}

// UnmarshalJSON also reads a sentence, as versions before reasons were data wrote it.
func (r *Reason) UnmarshalJSON(b []byte) error {
	var text string
	if len(b) > 0 && b[0] == '"' {
		err := json.Unmarshal(b, &text)
		if *r = (Reason{}); text != "" {
			*r = Why(WhyRecorded, ReasonParams{Detail: text})
		}
		return err
	}
	type plain Reason
	return json.Unmarshal(b, (*plain)(r))
}

// With returns r with the reasons behind it; those that are none are left out.
func (r Reason) With(because ...Reason) Reason {
	r.Because = nil
	for _, b := range because {
		if !b.IsZero() {
			r.Because = append(r.Because, b)
		}
	}
	return r
}

// Of returns r as one that concerns a thing of user, whose alone its detail then is.
func (r Reason) Of(user string) Reason {
	r.User = user
	return r
}

// Or returns r, or other where r is none.
func (r Reason) Or(other Reason) Reason {
	if r.IsZero() {
		return other
	}
	return r
}

// Clipped returns r with what programs and the host said, or users chose, bounded by Clip.
func (r Reason) Clipped() Reason {
	for _, s := range []*string{&r.Pool, &r.Machine, &r.Size, &r.Name, &r.Terminal, &r.Detail} {
		*s = Clip(*s)
	}
	because := make([]Reason, len(r.Because))
	for i, b := range r.Because {
		because[i] = b.Clipped()
	}
	return r.With(because...)
}

// Is says whether r has one of the codes.
func (r Reason) Is(codes ...ReasonCode) bool { return slices.Contains(codes, r.Code) }

// For returns r as v may see it, with its sentence: other users, their jobs and what was said on
// their behalf are left out, of r and of everything behind it. It is the only place that writes sentences.
func (r Reason) For(v Viewer) Reason {
	if r.IsZero() {
		return Reason{}
	}
	r = r.hide(v)
	r.Text = r.sentence()
	return r
}

func (r Reason) hide(v Viewer) Reason {
	r.Text = ""
	if own := r.User != "" && r.User == v.User; !v.Admin && !own {
		if r.User != "" {
			r.By = ""
		}
		r.User, r.Job, r.Detail = "", 0, ""
	}
	if len(r.Because) > 0 {
		because := make([]Reason, len(r.Because))
		for i, b := range r.Because {
			because[i] = b.hide(v)
		}
		r.Because = because
	}
	return r
}

// String is the sentence that For wrote, "" before.
func (r Reason) String() string { return r.Text }

// sentence fills in the code's pattern. In a pattern
//
//	{user}         is a parameter, or "somebody" or "another user's job" where that is left out;
//	{name quoted}  is a name that a user chose, as Quote writes it;
//	{count?a|# b}  is "a" for 1 and "# b" for every other number, which stands for #;
//	{because:, }   joins the sentences behind r, as {first} and {rest:, } do for the first and the others;
//	[: {detail}]   is left out where one of its parameters is.
func (r Reason) sentence() string {
	return r.fill(sentences[r.Code].pattern)
}

func (r Reason) fill(pattern string) string {
	var out strings.Builder
	for {
		i := strings.IndexAny(pattern, "{[")
		if i < 0 {
			out.WriteString(pattern)
			return out.String()
		}
		out.WriteString(pattern[:i])
		end := strings.IndexByte(pattern[i:], pattern[i]+2) + i // } is { + 2, and ] is [ + 2
		inner := pattern[i+1 : end]
		if pattern[i] == '{' {
			text, there := r.param(inner)
			if instead, ok := unnamed[inner]; ok && !there {
				text = instead
			}
			out.WriteString(text)
		} else if r.has(inner) {
			out.WriteString(r.fill(inner))
		}
		pattern = pattern[end+1:]
	}
}

// unnamed stands for parameters that are left out.
var unnamed = map[string]string{"user": "somebody", "job": "another user's job", "detail": "what administrators can read"}

// has says whether all parameters of a part of a pattern are there.
func (r Reason) has(part string) bool {
	for _, name := range placeholders(part) {
		if _, there := r.param(name); !there {
			return false
		}
	}
	return true
}

// placeholders returns what stands between the braces of a pattern.
func placeholders(pattern string) (list []string) {
	for {
		_, rest, ok := strings.Cut(pattern, "{")
		if !ok {
			return list
		}
		var inner string
		inner, pattern, _ = strings.Cut(rest, "}")
		list = append(list, inner)
	}
}

// param writes one placeholder, and says whether its parameter is there.
func (r Reason) param(placeholder string) (text string, there bool) {
	if name, forms, ok := strings.Cut(placeholder, "?"); ok {
		n := r.number(name)
		one, many, _ := strings.Cut(forms, "|")
		if n == 1 {
			many = one
		}
		return strings.ReplaceAll(many, "#", strconv.FormatInt(n, 10)), n != 0
	}
	name, separator, _ := strings.Cut(placeholder, ":")
	switch name {
	case "because":
		return join(r.Because, separator), len(r.Because) > 0
	case "first":
		return join(r.Because[:min(1, len(r.Because))], ""), len(r.Because) > 0
	case "rest":
		return join(r.Because[min(1, len(r.Because)):], separator), len(r.Because) > 1
	case "user":
		text = r.User
	case "by":
		text = r.By
	case "pool":
		text = r.Pool
	case "machine":
		text = r.Machine
	case "size":
		text = r.Size
	case "name":
		text = r.Name
	case "name quoted":
		return Quote(r.Name), r.Name != ""
	case "terminal":
		text = r.Terminal
	case "detail":
		text = r.Detail
	case "job":
		return "job " + strconv.FormatInt(r.Job, 10), r.Job != 0
	case "bytes":
		return FormatBytes(r.Bytes), r.Bytes != 0
	case "time":
		return r.Time.String(), r.Time != 0
	case "within":
		return r.Within.String(), r.Within != 0
	case "since":
		return r.Since.UTC().Format("2006-01-02 15:04 UTC"), !r.Since.IsZero()
	case "request":
		return r.Request.String(), r.Request != Resources{}
	case "capacity":
		return r.Capacity.String(), r.Capacity != Resources{}
	case "used.cpus":
		return FormatCPUs(r.Used.CPUs), true
	case "used.memory":
		return FormatBytes(r.Used.Memory), true
	case "used.gpus":
		return strconv.Itoa(r.Used.GPUs), true
	case "capacity.cpus":
		return FormatCPUs(r.Capacity.CPUs), true
	case "capacity.memory":
		return FormatBytes(r.Capacity.Memory), true
	case "capacity.gpus":
		return strconv.Itoa(r.Capacity.GPUs), true
	default:
		n := r.number(name)
		return strconv.FormatInt(n, 10), n != 0
	}
	return text, text != ""
}

func (r Reason) number(name string) int64 {
	switch name {
	case "count":
		return r.Count
	case "limit":
		return r.Limit
	case "port":
		return int64(r.Port)
	}
	return 0
}

func join(list []Reason, separator string) string {
	parts := make([]string, len(list))
	for i, r := range list {
		parts[i] = r.sentence()
	}
	return strings.Join(parts, separator)
}
