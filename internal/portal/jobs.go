package portal

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/control"
)

const (
	jobsPage  = 50
	tasksPage = 100
	// logShown is how much of a task's output a page begins with; logMost bounds what may come meanwhile.
	logShown = 64 << 10
	logMost  = 256 << 10
)

type jobsList struct {
	api.List[dspool.Job]
	All  bool  // everybody's
	Last int64 // of the page
}

func (p *Portal) findJobs(ctx context.Context, r *http.Request, m *member) (any, error) {
	q := control.JobQuery{User: m.Who.User, Before: asked(r, "before", 0), Limit: jobsPage}
	page := jobsList{All: m.Who.Admin && r.URL.Query().Has("all")}
	if page.All {
		q.User = ""
	}
	var err error
	if page.List, err = p.Control.Jobs(ctx, m.Who, q); err == nil && len(page.Items) > 0 {
		page.Last = page.Items[len(page.Items)-1].ID
	}
	return page, err
}

// jobPage is a job, a page of its tasks and the output of one.
type jobPage struct {
	dspool.Job
	List   api.List[dspool.Task]
	After  int64 // index of the last task on the page
	Show   int64 // whose output is shown
	Stream string
	Log    string
	Cut    bool  // the output began before
	Offset int64 // where the page's part ends
	Task   dspool.Task
}

func (p *Portal) findJob(ctx context.Context, r *http.Request, m *member) (any, error) {
	id, err := number(r, "id")
	if err != nil {
		return nil, err
	}
	page := jobPage{Stream: "stdout", After: asked(r, "after", -1)}
	if page.Job, err = p.Control.Job(ctx, m.Who, id); err != nil {
		return nil, err
	}
	if page.List, err = p.Control.Tasks(ctx, m.Who, id, control.TaskQuery{After: page.After, Limit: tasksPage}); err != nil {
		return nil, err
	}
	page.Show = 0
	if len(page.List.Items) > 0 {
		page.Show = page.List.Items[0].Index
		page.After = page.List.Items[len(page.List.Items)-1].Index
	}
	page.Show = asked(r, "task", page.Show)
	if r.URL.Query().Get("stream") == "stderr" {
		page.Stream = "stderr"
	}
	return page, nil
}

func (p *Portal) findJobAndLog(ctx context.Context, r *http.Request, m *member) (any, error) {
	found, err := p.findJob(ctx, r, m)
	if err != nil {
		return nil, err
	}
	page := found.(jobPage)
	if page.Task, err = p.Control.Task(ctx, m.Who, page.ID, page.Show); err != nil {
		return nil, err
	}
	out, err := p.Control.OpenOutput(ctx, m.Who, page.ID, page.Show, page.Stream, 0)
	if err != nil {
		return nil, err
	}
	from, err := out.Skip(logShown)
	if err != nil {
		return nil, err
	}
	var b atMost
	if err := out.Copy(ctx, &b, false); err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	page.Offset = from + int64(b.Len())
	text := b.Bytes()
	if page.Cut = from > 0; page.Cut { // begin with a whole line
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			text = text[i+1:]
		}
	}
	page.Log = plainText(string(text))
	return page, nil
}

// atMost takes no more than logMost bytes.
type atMost struct{ bytes.Buffer }

var errEnough = errors.New("enough")

func (b *atMost) Write(p []byte) (int, error) {
	if b.Len() >= logMost {
		return 0, errEnough
	}
	return b.Buffer.Write(p)
}

func (p *Portal) cancelJob(w http.ResponseWriter, r *http.Request, m *member) {
	id, err := number(r, "id")
	if err == nil {
		_, err = p.Control.Cancel(r.Context(), m.Who, id)
	}
	p.done(w, r, m, err, "/jobs/"+strconv.FormatInt(id, 10))
}

// submitPage is the form of a job, with what was wrong with it.
type submitPage struct {
	Pools  []string
	Sizes  []dspool.Size
	Values map[string]string
	Key    string // a form sent twice makes one job
	Failed *dspool.Error
}

var submitFields = []string{"name", "pool", "script", "cpus", "memory", "gpus", "array", "max_running", "time_limit"}

func (p *Portal) submitPage(ctx context.Context, m *member) (page submitPage, err error) {
	pools, err := p.Control.Pools(ctx, m.Who)
	if err != nil {
		return page, err
	}
	for _, pool := range pools.Items {
		if pool.Runs == "" {
			page.Pools = append(page.Pools, pool.Name)
		}
	}
	status, err := p.Control.Status(ctx, m.Who)
	page.Values = map[string]string{"pool": status.Defaults["pool"]}
	page.Key = random()
	return page, err
}

func (p *Portal) findSubmit(ctx context.Context, _ *http.Request, m *member) (any, error) {
	return p.submitPage(ctx, m)
}

func (p *Portal) submit(w http.ResponseWriter, r *http.Request, m *member) {
	spec, err := jobSpec(r)
	var job dspool.Job
	if err == nil {
		job, err = p.Control.Submit(r.Context(), m.Who, api.SubmitRequest{JobSpec: spec, Key: r.PostForm.Get("key")})
	}
	if err == nil {
		redirect(w, "/jobs/"+strconv.FormatInt(job.ID, 10))
		return
	}
	said, status := p.spoken(err)
	page, err := p.submitPage(r.Context(), m)
	if err != nil {
		p.fail(w, r, m, err)
		return
	}
	page.Failed = said
	for _, f := range submitFields {
		page.Values[f] = r.PostForm.Get(f)
	}
	p.render(w, m.visit, status, "submit", page, m)
}

// jobSpec reads a job from the form. Its script is bash's.
func jobSpec(r *http.Request) (s dspool.JobSpec, err error) {
	f := func(name string) string { return strings.TrimSpace(r.PostForm.Get(name)) }
	script := strings.ReplaceAll(r.PostForm.Get("script"), "\r\n", "\n") // forms end lines so (WHATWG HTML, section 4.10.21.7)
	if strings.TrimSpace(script) == "" {
		return s, dspool.Errorf(dspool.Invalid, "the job has nothing to run").WithHint("write the commands that it should run")
	}
	s = dspool.JobSpec{Name: f("name"), Pool: f("pool"), Array: f("array"), Command: []string{"bash", "-c", script}}
	if v := f("cpus"); v != "" {
		if s.CPUs, err = dspool.ParseCPUs(v); err != nil {
			return s, err
		}
	}
	if v := f("memory"); v != "" {
		if s.Memory, err = dspool.ParseMemory(v); err != nil {
			return s, err
		}
	}
	for name, into := range map[string]*int{"gpus": &s.GPUs, "max_running": &s.MaxRunning} {
		if v := f(name); v != "" {
			if *into, err = strconv.Atoi(v); err != nil {
				return s, dspool.Errorf(dspool.Invalid, "%s is not a number", dspool.Quote(v)).WithHint("leave the field empty, or write a whole number")
			}
		}
	}
	if v := f("time_limit"); v != "" {
		if s.TimeLimit, err = dspool.ParseDuration(v); err != nil {
			return s, err
		}
	}
	if s.Name == "" {
		s.Name = firstLine(script)
	}
	return s, nil
}

// firstLine names a job that has no name, in characters that a name may have.
func firstLine(script string) string {
	for line := range strings.Lines(script) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			if line = clipped(line, 60); dspool.CheckTitle("job name", line) == nil {
				return line
			}
		}
	}
	return "script"
}
