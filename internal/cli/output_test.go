package cli_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

const (
	publicKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGk/xC7QW6Uq1XvXbqV8uDhPx0yJSWvYRmMPE6KX/Zsv"
	knownHosts = "@cert-authority [localhost]:2222 " + publicKey + "\n@cert-authority [pool.example.org]:2222 " + publicKey + "\n" +
		"@cert-authority [localhost]:8022 " + publicKey + "\n@cert-authority [pool.example.org]:8022 " + publicKey + "\n"
)

func at(d time.Duration) *time.Time { t := now.Add(-d); return &t }

func code(n int) *int { return &n }

var (
	small = dspool.Resources{CPUs: 1, Memory: 2 << 30}
	sweep = dspool.Job{ID: 12, User: "ada", State: dspool.JobRunning, Reason: told("pool batch is at its max of 4 machines"),
		Spec: dspool.JobSpec{Name: "digits-sweep", Pool: "batch", Size: "small", Command: []string{"sh", "-c", "python sweep.py --seed $DSPOOL_TASK_INDEX"},
			Env: map[string]string{"SEED": "secret", "A": "b"}, CPUs: 1, Memory: 1 << 30, Array: "1-100", MaxRunning: 8, TimeLimit: dspool.Duration(2 * time.Hour), After: []int64{7, 8}},
		Tasks: dspool.Counts{Total: 100, Pending: 90, Running: 4, Assigned: 1, Succeeded: 3, Failed: 2}, Created: *at(10 * time.Minute), Started: at(9 * time.Minute)}
	hello = dspool.Job{ID: 11, User: "grace", State: dspool.JobSucceeded, Spec: dspool.JobSpec{Name: "he said \"hi\", then\x1b[2J left", Pool: "batch", Command: []string{"true"}, CPUs: 0.5, Memory: 1 << 30},
		Tasks: dspool.Counts{Total: 1, Succeeded: 1}, Created: *at(50 * time.Hour), Started: at(50 * time.Hour), Ended: at(50*time.Hour - 1500*time.Millisecond)}
	tasks = []dspool.Task{
		{Job: 12, Index: 3, State: dspool.TaskFailed, ExitCode: code(137), Machine: "batch-1", Reason: told("out of memory (limit 1 GiB)"), Started: at(9 * time.Minute), Ended: at(8 * time.Minute)},
		{Job: 12, Index: 9, State: dspool.TaskRunning, Machine: "batch-2", Started: at(30 * time.Second)},
	}
	machine = dspool.Machine{Name: "batch-2", Pool: "batch", Size: "small", Resources: small, Price: 0.05, Image: "UbuntuDSVM", State: dspool.Ready, Health: dspool.Healthy,
		Reason: told("job 12 waits"), Used: dspool.Resources{CPUs: 1, Memory: 1 << 30}, Claims: 1, Created: *at(5 * time.Minute), ReadyAt: at(4 * time.Minute), Address: "10.80.0.3"}
	broken = dspool.Machine{Name: "lab-1", Pool: "lab", Size: "small", Resources: small, State: dspool.Failed, Failure: told("it did not join within 2m"), Created: *at(time.Hour)}
	batch  = api.PoolStatus{Pool: dspool.Pool{Name: "batch", Kind: dspool.Batch, Image: "UbuntuDSVM", Sizes: []string{"small", "big"}, Max: 4, Shares: []string{"home", "team"}, Internet: true,
		Policy: dspool.PoolPolicy{SessionsPerMachine: 4, SessionIdle: dspool.Duration(time.Hour), KeepMost: dspool.Duration(24 * time.Hour), Sudo: true, Record: true, IdleAfter: dspool.Duration(30 * time.Second), StartTimeout: dspool.Duration(2 * time.Minute)}},
		Machines: 4, Ready: 3, Idle: 1, Queued: 90, Running: 5, Note: told("at its max of 4 machines")}
	queued  = dspool.Session{ID: 4, User: "grace", Pool: "lab", State: dspool.SessionWaiting, Reason: told("pool lab is at its max of 2 machines"), Position: 2, Request: small, Connections: 1, Created: *at(20 * time.Second), LastActive: *at(20 * time.Second)}
	working = dspool.Session{ID: 3, User: "ada", Pool: "lab", Size: "large", Machine: "lab-7", State: dspool.SessionOpen, Request: dspool.Resources{CPUs: 0.5, Memory: 1 << 30}, Connections: 1, Active: true,
		Activity: told("tmux train has\x1b[2J a running program"), LastActive: *at(time.Minute), Created: *at(3 * time.Hour), Placed: at(3 * time.Hour), Opened: at(3*time.Hour - time.Second), KeepUntil: at(-time.Hour)}
	ada    = dspool.User{Name: "ada", UID: 20000, Created: *at(72 * time.Hour), Groups: []string{"vision"}, DefaultPool: "lab", HasPassword: true}
	adaKey = dspool.UserKey{Fingerprint: "SHA256:nYc2lQc8dGtXqXrjNKCeYbBSIVXnFDyKCZ2aoYFQmq4", User: "ada", Key: publicKey, Comment: "ada@laptop", Added: *at(time.Hour)}
	event  = dspool.Event{ID: 99, Time: *at(time.Minute), Actor: "planner", Kind: "machine.created", Pool: "batch", Machine: "batch-2", Message: "machine batch-2 of size small", Reason: told("job 12 waits")}
)

func serveTeam(w http.ResponseWriter, r *http.Request) {
	p := strings.TrimPrefix(r.URL.Path, "/api/v1")
	switch r.Method + " " + p {
	case "GET /status":
		reply(w, api.Status{Version: "v1", Installation: "k3v9", Started: *at(3 * time.Hour), Pools: []api.PoolStatus{batch},
			Hosts:    api.HostStatus{Capacity: dspool.Resources{CPUs: 8, Memory: 16 << 30}, Used: dspool.Resources{CPUs: 4, Memory: 8 << 30}},
			Images:   []dspool.Image{{Name: "UbuntuDSVM", State: dspool.ImageBuilding, Reason: told("step 3 of 9: packages")}, {Name: "X", State: dspool.ImageReady}},
			Defaults: map[string]string{"jobs_share": "team", "pool": "batch", "user": "ada"}, Problems: []dspool.Reason{told("disk of share team is 95 % full")}, QueuedTasks: 90, RunningTasks: 5})
	case "GET /jobs":
		if r.URL.Query().Get("before") != "" {
			reply(w, api.List[dspool.Job]{})
			return
		}
		reply(w, api.List[dspool.Job]{Items: []dspool.Job{sweep, hello}, More: true})
	case "GET /jobs/12":
		reply(w, sweep)
	case "GET /jobs/12/tasks":
		l := api.List[dspool.Task]{Items: []dspool.Task{}}
		for _, t := range tasks {
			if string(t.State) == r.URL.Query().Get("state") {
				l.Items = append(l.Items, t)
			}
		}
		reply(w, l)
	case "GET /pools":
		reply(w, api.List[api.PoolStatus]{Items: []api.PoolStatus{batch}})
	case "GET /pools/batch", "POST /pools/batch/resize":
		reply(w, batch)
	case "GET /machines":
		reply(w, api.List[dspool.Machine]{Items: []dspool.Machine{machine, broken}})
	case "GET /machines/batch-2":
		reply(w, api.MachineDetail{Machine: machine, Tasks: tasks[1:], Events: []dspool.Event{event}})
	case "GET /images":
		reply(w, api.List[dspool.Image]{Items: []dspool.Image{{Name: "UbuntuDSVM", Recipe: "/srv/images/UbuntuDSVM.yaml", State: dspool.ImageReady, Bytes: 1 << 30, Built: at(26 * time.Hour)},
			{Name: "torch", State: dspool.ImageFailed, Reason: told("step 4: pip failed")}}})
	case "GET /sizes":
		reply(w, api.List[dspool.Size]{Items: []dspool.Size{{Name: "small", Resources: small, Disk: 10 << 30, Price: 0.05}, {Name: "gpu", Resources: dspool.Resources{CPUs: 16, Memory: 64 << 30, GPUs: 1}, Disk: 100 << 30, Price: 2.5}}})
	case "GET /shares":
		reply(w, api.List[shareStatus]{Items: []shareStatus{{Share: dspool.Share{Name: "team", Kind: "dir", Path: "/srv/team", Mount: "/mnt/team"}, Pools: []string{"batch", "lab"}, Total: 100 << 30, Free: 25 << 30}}})
	case "GET /whoami":
		reply(w, api.Whoami{User: "ada"})
	case "GET /sessions":
		onBatch := working
		onBatch.ID, onBatch.Machine = 2, "batch-2"
		if r.URL.Query().Get("pool") == "batch" {
			reply(w, api.List[dspool.Session]{Items: []dspool.Session{queued, onBatch}})
			return
		}
		reply(w, api.List[dspool.Session]{Items: []dspool.Session{queued, working}, More: r.URL.Query().Get("limit") == "2"})
	case "GET /sessions/3":
		reply(w, api.SessionDetail{Session: working, Open: []dspool.Connection{
			{ID: "c1", Session: 3, User: "ada", Protocol: dspool.ProtocolSSH, From: "192.0.2.7:50122", Auth: "certificate 17 (SHA256:abc)", BytesIn: 2048, BytesOut: 3 << 20, Started: *at(time.Hour)},
		}, Events: []dspool.Event{}})
	case "POST /sessions/3/keep":
		s, until := working, now.Add(2*time.Hour)
		s.KeepUntil = &until
		reply(w, s)
	case "DELETE /sessions/3":
		reply(w, dspool.Operation{ID: "op2", Kind: "session.close", Target: "3", State: dspool.OperationSucceeded})
	case "GET /operations/op2":
		reply(w, dspool.Operation{ID: "op2", Kind: "session.close", Target: "3", State: dspool.OperationSucceeded})
	case "GET /doors":
		reply(w, api.List[dspool.Door]{Items: []dspool.Door{{Listen: ":2222", Protocol: dspool.ProtocolSSH, Pool: "lab"}, {Listen: ":8022", Protocol: dspool.ProtocolSSH, Pool: "batch"}}})
	case "POST /machines/batch-2/cordon", "POST /machines/batch-2/uncordon":
		reply(w, machine)
	case "POST /machines/batch-2/drain":
		reply(w, dspool.Operation{ID: "op2", Kind: "machine.remove", Target: "batch-2", State: dspool.OperationRunning})
	case "GET /groups":
		reply(w, api.List[dspool.Group]{Items: []dspool.Group{{Name: "vision", GID: 20003, Members: []string{"ada", "grace"}, Created: *at(time.Hour)}, {Name: "nightly", GID: 20004, Created: *at(time.Minute)}}})
	case "GET /users/ada":
		reply(w, api.UserDetail{User: ada, Keys: []dspool.UserKey{adaKey}, Sessions: []dspool.Session{working}})
	case "PATCH /users/ada":
		reply(w, ada)
	case "GET /users/ada/keys":
		reply(w, api.List[dspool.UserKey]{Items: []dspool.UserKey{adaKey}})
	case "POST /users/ada/keys":
		reply(w, adaKey)
	case "DELETE /users/ada/keys":
		w.WriteHeader(http.StatusNoContent)
	case "GET /ssh/known_hosts":
		_, _ = io.WriteString(w, knownHosts)
	case "GET /users":
		reply(w, api.List[dspool.User]{Items: []dspool.User{{Name: "ada", UID: 20000, Created: *at(72 * time.Hour)}, {Name: "grace", UID: 20001, Admin: true, Created: *at(time.Minute)}}})
	case "POST /users":
		reply(w, dspool.User{Name: "bob", UID: 20002})
	case "GET /tokens":
		t := now.Add(90 * 24 * time.Hour)
		reply(w, api.List[dspool.Token]{Items: []dspool.Token{{ID: "t1", User: "ada", Name: "laptop", Created: *at(time.Hour), Expires: &t}, {ID: "t2", User: "ada", Created: *at(time.Hour), Used: at(time.Second)}}})
	case "POST /tokens":
		reply(w, api.NewToken{Token: dspool.Token{ID: "t3", User: "ada"}, Secret: "dspool_SECRET"})
	case "DELETE /tokens/t1":
		w.WriteHeader(http.StatusNoContent)
	case "GET /events":
		reply(w, api.List[dspool.Event]{Items: []dspool.Event{event, {ID: 100, Time: now, Actor: "ada", Kind: "job.submitted", Job: 12, User: "ada", Message: "job 12 submitted"}}})
	case "GET /usage":
		reply(w, api.Usage{From: *at(24 * time.Hour), To: now, By: "user", Cost: 1.2345, Rows: []dspool.UsageRow{
			{Key: "ada", MachineSeconds: 7200, CPUSeconds: 3600, GiBSeconds: 5400, Tasks: 103, Cost: 1}, {Key: "grace", MachineSeconds: 36, CPUSeconds: 36, GPUSeconds: 3600, Tasks: 1, Cost: 0.0345},
			{Key: "(idle)", MachineSeconds: 720, Cost: 0.2}}})
	case "GET /ca":
		_, _ = w.Write([]byte("-----BEGIN CERTIFICATE-----\n"))
	case "POST /images/torch/build", "DELETE /machines/batch-2":
		reply(w, dspool.Operation{ID: "op1", Kind: "image.build", Target: "torch", State: dspool.OperationRunning})
	case "GET /operations/op1":
		reply(w, dspool.Operation{ID: "op1", Kind: "image.build", Target: "torch", State: dspool.OperationFailed, Error: dspool.Errorf(dspool.Internal, "step 4 of torch.yaml failed: pip").WithHint("its log is at /x")})
	case "POST /jobs":
		reply(w, sweep)
	case "POST /jobs/12/cancel":
		j := sweep
		j.Cancelling = true
		reply(w, j)
	case "POST /apply":
		reply(w, api.ApplyResult{Changes: []api.Change{{Action: "add", Kind: "pool", Name: "lab", Detail: "max: 4"}, {Action: "change", Kind: "defaults", Name: "defaults", Detail: "user: ada → grace"},
			{Action: "remove", Kind: "size", Name: "big"}}})
	default:
		http.NotFound(w, r)
	}
}

type shareStatus = api.ShareStatus

// What people and programs read is under test as it stands.
func TestOutput(t *testing.T) {
	t.Parallel()
	for name, args := range map[string]string{
		"status": "status", "status-json": "status -o json", "job-list": "job list", "job-list-csv": "job list -o csv", "job-list-json": "job list -o json", "job-show": "job show 12",
		"job-submit": "job submit true", "job-submit-json": "job submit -o json true", "job-cancel": "job cancel 12",
		"pool-list": "pool list", "pool-list-csv": "pool list -o csv", "pool-show": "pool show batch", "pool-resize": "pool resize batch --max 4",
		"machine-list": "machine list --all", "machine-list-csv": "machine list -o csv", "machine-show": "machine show batch-2", "machine-remove": "machine remove batch-2", "image-list": "image list", "image-list-csv": "image list -o csv",
		"image-build": "image build torch", "image-build-no-wait": "image build torch --no-wait", "size-list": "size list", "size-list-csv": "size list -o csv",
		"share-list": "share list", "share-list-csv": "share list -o csv", "user-list": "user list", "user-list-csv": "user list -o csv", "user-add": "user add bob",
		"token-list": "token list", "token-list-csv": "token list -o csv", "token-create": "token create", "token-revoke": "token revoke t1", "events": "events", "events-csv": "events -o csv",
		"usage": "usage", "usage-csv": "usage --by job -o csv", "usage-json": "usage -o json", "session-list": "session list", "session-list-csv": "session list -o csv", "session-list-more": "session list --limit 2", "session-show": "session show 3", "session-keep": "session keep 3", "session-close": "session close 3",
		"door-list": "door list", "door-list-csv": "door list -o csv", "machine-cordon": "machine cordon batch-2", "machine-uncordon": "machine uncordon batch-2",
		"machine-drain": "machine drain batch-2 --deadline 4h", "machine-drain-no-wait": "machine drain batch-2 --no-wait", "group-list": "group list", "group-list-csv": "group list -o csv",
		"user-show": "user show", "user-show-json": "user show ada -o json", "user-set": "user set ada --pool lab", "user-key-list": "user key list", "user-key-list-csv": "user key list --user ada -o csv",
		"user-key-remove": "user key remove SHA256:nYc2lQc8dGtXqXrjNKCeYbBSIVXnFDyKCZ2aoYFQmq4", "ca": "ca", "version": "version", "apply": "apply testdata/team.yaml --dry-run",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			p := start(t, serveTeam)
			got := p.run(t, strings.Fields(args)...)
			golden(t, "output/"+name+".txt", p.out.String()+"-- stderr --\n"+p.err.String()+"-- code --\n"+string(rune('0'+got))+"\n")
		})
	}
	t.Run("colour is for terminals", func(t *testing.T) {
		t.Parallel()
		p := start(t, serveTeam)
		p.StdoutTTY = true
		p.run(t, "pool", "list")
		if !strings.Contains(p.out.String(), "\x1b[") {
			t.Error("no colour on a terminal")
		}
		p.out.Reset()
		p.env["NO_COLOR"] = "1"
		p.run(t, "pool", "list")
		if strings.Contains(p.out.String(), "\x1b[") {
			t.Error("colour in spite of NO_COLOR")
		}
	})
	t.Run("empty listings say so, and are empty for programs", func(t *testing.T) {
		t.Parallel()
		p := start(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, api.List[dspool.User]{}) })
		p.run(t, "user", "list")
		p.run(t, "user", "list", "-o", "json")
		p.run(t, "user", "list", "-o", "csv")
		if p.out.String() != "[]\nuser,id,admin,groups,pool,created\n" || p.err.String() != "no users: `dspool user add NAME` makes one\n" {
			t.Errorf("%q %q", p.out.String(), p.err.String())
		}
	})
	t.Run("apply shows all problems with their lines", func(t *testing.T) {
		t.Parallel()
		p := start(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(422)
			reply(w, api.Problem{Detail: "team.yaml has 2 problems, the first in line 3: unknown key \"mx\"", Code: dspool.Invalid, Errors: []api.FieldProblem{
				{Location: "team.yaml:3", Message: "unknown key \"mx\"", Hint: "did you mean max?"}, {Location: "team.yaml:9", Message: "pool lab has no sizes"}}})
		})
		got := p.run(t, "apply", "testdata/team.yaml")
		want := "dspool: 2 problems; nothing was changed\n  team.yaml:3: unknown key \"mx\"\n      hint: did you mean max?\n  team.yaml:9: pool lab has no sizes\n"
		if got != 2 || p.err.String() != want {
			t.Errorf("code %d\n%s", got, p.err.String())
		}
	})
	t.Run("completion offers what there is", func(t *testing.T) {
		t.Parallel()
		for args, want := range map[string]string{
			"pool show ":         "batch\tbatch, 4 of 4 machines\n",
			"run --size ":        "small\t1 cpu, 2 GiB\ngpu\t16 cpu, 64 GiB, 1 gpu\n",
			"machine remove ":    "batch-2\tready\n",
			"job cancel 11 ":     "12\tdigits-sweep, running\n",
			"job list -o ":       "table\njson\ncsv\n",
			"user remove ada ":   "",
			"token revoke ":      "t1\tada laptop\nt2\tada\n",
			"events --job ":      "12\tdigits-sweep, running\n",
			"run --as ":          "ada\ngrace\n",
			"image build torch ": "UbuntuDSVM\tready\n",
			"session keep ":      "4\tgrace in lab, waiting\n3\tada in lab, open\n",
			"user set --group ":  "vision\tada grace\nnightly\n",
			"user key remove ":   "SHA256:nYc2lQc8dGtXqXrjNKCeYbBSIVXnFDyKCZ2aoYFQmq4\tada@laptop\n",
			"machine drain ":     "batch-2\tready\n",
			"ssh ":               "batch\tbatch, 4 of 4 machines\n",
		} {
			p := start(t, serveTeam)
			p.run(t, append([]string{"__complete"}, strings.Split(args, " ")...)...)
			if !strings.HasPrefix(p.out.String(), want) || want == "" && !strings.HasPrefix(p.out.String(), ":") {
				t.Errorf("%s: %q", args, p.out.String())
			}
		}
	})
}

// told is a reason as a server tells it.
func told(text string) dspool.Reason {
	if text == "" {
		return dspool.Reason{}
	}
	return dspool.Reason{Code: dspool.WhyStated, Text: text}
}
