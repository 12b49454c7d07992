package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/dspool/dspool"
)

const keepForm = "days such as 90d, years such as 1y, or never"

func (r *reader) retentionSection(c *Config) field {
	fields := r.retentionFields(&c.Retention)
	return field{key: "retention", doc: "How long history is kept. It goes bit by bit, within an hour; bills stay exact, because what was used is kept in totals for every day.",
		inner: fields, read: func(n *yaml.Node) {
			r.mapping(n, "retention", fields)
			r.checkRetention(c, n)
		}}
}

func (r *reader) retentionFields(c *Retention) []field {
	*c = DefaultRetention
	one := func(key string, into *dspool.Duration, least int, doc string) field {
		return field{key: key, form: keepForm, unless: Keep(*into), doc: doc, read: scalar(r, into, key+" of retention", parseKeep(least))}
	}
	return []field{
		one("events", &c.Events, 1, "Events, from when they happened."),
		one("jobs", &c.Jobs, 7, "Jobs with their tasks, from the job's end. A job that another waits for stays."),
		one("sessions", &c.Sessions, 7, "Sessions with their connections and apps, from the session's end."),
		one("output", &c.Output, 1, "Jobs' directories on the share of jobs, with the output and whatever else lies there, from the job's end; not longer than jobs. They are removed as the job's user, and no link is followed."),
	}
}

// parseKeep reads a number of days, at least so many, or of years of 365 days.
func parseKeep(least int) func(string) (dspool.Duration, error) {
	return func(s string) (dspool.Duration, error) {
		if s == "never" {
			return 0, nil
		}
		number, factor := s, 0
		if rest, ok := strings.CutSuffix(s, "d"); ok {
			number, factor = rest, 1
		} else if rest, ok := strings.CutSuffix(s, "y"); ok {
			number, factor = rest, 365
		}
		n, err := strconv.ParseUint(number, 10, 16)
		days := int(n) * factor
		if err != nil || factor == 0 {
			return 0, dspool.Errorf(dspool.Invalid, "%s is not a time to keep things", dspool.Quote(s)).WithHint(keepForm)
		}
		if days < least || days > 36500 {
			return 0, dspool.Errorf(dspool.Invalid, "%s is too short or too long to keep things", dspool.Quote(s)).WithHint("from %dd to 100y, or never", least)
		}
		return dspool.Duration(time.Duration(days) * 24 * time.Hour), nil
	}
}

// Keep is how the file says how long something is kept.
func Keep(d dspool.Duration) string {
	switch days := int(d / daily); {
	case d == 0:
		return "never"
	case days%365 == 0:
		return fmt.Sprintf("%dy", days/365)
	default:
		return fmt.Sprintf("%dd", days)
	}
}

func (r *reader) checkRetention(c *Config, n *yaml.Node) {
	if k := c.Retention; k.Jobs != 0 && k.Output > k.Jobs {
		r.problem(n, "once a job is forgotten, nobody knows whose directory it was", "output of retention is %s, longer than %s for jobs", Keep(k.Output), Keep(k.Jobs))
	}
}

func retentionPairs(c *Config) []pair {
	k := c.Retention
	return []pair{{"events", Keep(k.Events)}, {"jobs", Keep(k.Jobs)}, {"sessions", Keep(k.Sessions)}, {"output", Keep(k.Output)}}
}
