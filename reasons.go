package dspool

// Codes of reasons. Every code has a row in sentences.
const (
	// Why machines come.
	WhyJobWaits   ReasonCode = "job_waits"
	WhyUserWaits  ReasonCode = "user_waits"
	WhyUsersWait  ReasonCode = "users_wait"
	WhyKeepsMin   ReasonCode = "keeps_min"
	WhyKeepsSpare ReasonCode = "keeps_spare"

	// Why machines go.
	WhyIdle            ReasonCode = "idle"
	WhyIdleUnhealthy   ReasonCode = "idle_unhealthy"
	WhyOverMax         ReasonCode = "over_max"
	WhyMakesRoomJob    ReasonCode = "makes_room_for_job"
	WhyMakesRoomUser   ReasonCode = "makes_room_for_user"
	WhyNothingLeft     ReasonCode = "nothing_left"
	WhyDeadline        ReasonCode = "deadline_passed"
	WhyDrained         ReasonCode = "drained"
	WhyDrainedBy       ReasonCode = "drained_by"
	WhyRemovedBy       ReasonCode = "removed_by"
	WhyPoolGone        ReasonCode = "pool_gone"
	WhyWasRoot         ReasonCode = "was_root"
	WhyLoadTasks       ReasonCode = "load_tasks"
	WhyLoadSessions    ReasonCode = "load_sessions"
	WhyVanished        ReasonCode = "vanished"
	WhyEnded           ReasonCode = "ended"
	WhyNotCreated      ReasonCode = "not_created"
	WhyNotJoined       ReasonCode = "not_joined"
	WhyBeforeJoined    ReasonCode = "before_joined"
	WhyRemovingFailed  ReasonCode = "removing_failed"
	WhyGoes            ReasonCode = "goes"
	WhyMachineGone     ReasonCode = "machine_gone"
	WhyUninstalled     ReasonCode = "uninstalled"
	WhyUnknownToServer ReasonCode = "unknown_to_server"

	// Why machines are unhealthy.
	WhyAgentSilent ReasonCode = "agent_silent"
	WhyInitSilent  ReasonCode = "init_silent"
	WhyDiskSilent  ReasonCode = "disk_silent"
	WhyDiskFull    ReasonCode = "disk_full"
	WhyMemoryLow   ReasonCode = "memory_low"
	WhySSHDEnds    ReasonCode = "sshd_ends"

	// Why tasks are placed, and why they wait.
	WhyHasRoom         ReasonCode = "has_room"
	WhyPlacedAhead     ReasonCode = "placed_ahead"
	WhyWaitsForJob     ReasonCode = "waits_for_job"
	WhyMaxRunning      ReasonCode = "max_running"
	WhyMachineReserved ReasonCode = "machine_reserved"
	WhyReservedFor     ReasonCode = "reserved_for"
	WhyMachineKept     ReasonCode = "machine_kept"
	WhyMachineStarting ReasonCode = "machines_starting"
	WhyRoomReserved    ReasonCode = "room_reserved"
	WhyShortTasks      ReasonCode = "short_tasks"
	WhyFitsNoSize      ReasonCode = "fits_no_size"
	WhyFitsNotSize     ReasonCode = "fits_not_size"
	WhyWaitsForRoom    ReasonCode = "waits_for_room"
	WhyJobWaitsForRoom ReasonCode = "job_waits_for_room"
	WhyBeingDrained    ReasonCode = "machine_being_drained"
	WhyCordoned        ReasonCode = "machine_cordoned"
	WhyUnhealthy       ReasonCode = "machine_unhealthy"
	WhyNotStartedSoon  ReasonCode = "not_started_within"
	WhyHeld            ReasonCode = "held"
	WhyHeldTrying      ReasonCode = "held_trying"
	WhyShareFull       ReasonCode = "share_full"
	WhyShareFails      ReasonCode = "share_fails"
	WhyHostFails       ReasonCode = "host_fails"

	// Why a pool does not grow.
	WhyNoPool         ReasonCode = "no_pool"
	WhyNoSize         ReasonCode = "no_size"
	WhyImageBuilding  ReasonCode = "image_building"
	WhyImageFailed    ReasonCode = "image_failed"
	WhyImageMissing   ReasonCode = "image_missing"
	WhyImageRemoved   ReasonCode = "image_removed"
	WhyBackoff        ReasonCode = "backoff"
	WhyProbing        ReasonCode = "probing"
	WhyPoolMax        ReasonCode = "pool_max"
	WhyPoolMaxBusy    ReasonCode = "pool_max_busy"
	WhyPoolMaxPlaces  ReasonCode = "pool_max_places"
	WhyProviderMax    ReasonCode = "provider_max"
	WhyProviderKept   ReasonCode = "provider_max_kept"
	WhyHostsTooSmall  ReasonCode = "hosts_too_small"
	WhyHostsCPUs      ReasonCode = "hosts_full_cpus"
	WhyHostsMemory    ReasonCode = "hosts_full_memory"
	WhyHostsGPUs      ReasonCode = "hosts_full_gpus"
	WhyHostsKept      ReasonCode = "hosts_kept"
	WhyHostsPromised  ReasonCode = "hosts_promised"
	WhyCountBusy      ReasonCode = "count_busy"
	WhyCountOther     ReasonCode = "count_other_size"
	WhyCountUnfit     ReasonCode = "count_unfit"
	WhyCountStarting  ReasonCode = "count_starting"
	WhyCountCordoned  ReasonCode = "count_cordoned"
	WhyCountDraining  ReasonCode = "count_draining"
	WhyCountUnhealthy ReasonCode = "count_unhealthy"
	WhyCountStopped   ReasonCode = "count_stopped"
	WhyCountGoing     ReasonCode = "count_going"

	// How tasks and jobs end.
	WhySucceeded        ReasonCode = "succeeded"
	WhyTasksNot         ReasonCode = "tasks_not_succeeded"
	WhyCountFailed      ReasonCode = "count_failed"
	WhyCountLost        ReasonCode = "count_lost"
	WhyCountCancelled   ReasonCode = "count_cancelled"
	WhyExitCode         ReasonCode = "exit_code"
	WhySignal           ReasonCode = "signal"
	WhyOutOfMemory      ReasonCode = "out_of_memory"
	WhyOverTime         ReasonCode = "over_time"
	WhyEndUnknown       ReasonCode = "end_unknown"
	WhyStuck            ReasonCode = "stuck"
	WhyShutDown         ReasonCode = "shut_down"
	WhyCancelledBy      ReasonCode = "cancelled_by"
	WhyAfterEnded       ReasonCode = "after_ended"
	WhyUserRemoved      ReasonCode = "user_removed"
	WhyRightsChanged    ReasonCode = "rights_changed"
	WhyNeverStarted     ReasonCode = "never_started"
	WhyGivenUp          ReasonCode = "given_up"
	WhyNotSaid          ReasonCode = "not_said"
	WhyWithoutJob       ReasonCode = "without_job"
	WhyTooLarge         ReasonCode = "too_large"
	WhyNotStarted       ReasonCode = "not_started"
	WhyNoCommand        ReasonCode = "no_command"
	WhyNoInterpreter    ReasonCode = "no_interpreter"
	WhyNotExecutable    ReasonCode = "not_executable"
	WhyNotProgram       ReasonCode = "not_program"
	WhyArgumentsTooLong ReasonCode = "arguments_too_long"

	// How sessions come along and end.
	WhyLooking        ReasonCode = "looking"
	WhyCreating       ReasonCode = "creating"
	WhyComing         ReasonCode = "coming"
	WhyHasPlace       ReasonCode = "has_place"
	WhyWaitsForTasks  ReasonCode = "waits_for_tasks"
	WhyWaitsForSize   ReasonCode = "waits_for_size"
	WhyPreparing      ReasonCode = "preparing"
	WhyConnecting     ReasonCode = "connecting"
	WhyServerRestarts ReasonCode = "server_restarts"
	WhyOpen           ReasonCode = "open"
	WhySessionIdle    ReasonCode = "session_idle"
	WhyNobodyWaits    ReasonCode = "nobody_waits"
	WhyBeginsAnew     ReasonCode = "begins_anew"
	WhyClosedBy       ReasonCode = "closed_by"
	WhyClosed         ReasonCode = "closed"
	WhyNotOpened      ReasonCode = "not_opened"
	WhyEndedByMachine ReasonCode = "ended_by_machine"
	WhyNoHub          ReasonCode = "no_jupyterhub"

	// What lives in a session.
	WhyNothingRuns   ReasonCode = "nothing_runs"
	WhyInput         ReasonCode = "input"
	WhyUsesCPU       ReasonCode = "uses_cpu"
	WhyRunsInTmux    ReasonCode = "runs_in_tmux"
	WhyRunsInScreen  ReasonCode = "runs_in_screen"
	WhyStopped       ReasonCode = "stopped_on_terminal"
	WhyRunsTerminal  ReasonCode = "runs_on_terminal"
	WhyRunsConnected ReasonCode = "runs_on_connection"
	WhyRunsBehind    ReasonCode = "runs_in_background"
	WhyRunsCell      ReasonCode = "runs_cell"
	WhyMayRunCell    ReasonCode = "may_run_cell"
	WhyKilledSome    ReasonCode = "killed_some"
	WhyKilledTasks   ReasonCode = "killed_tasks"
	WhyKilledMemory  ReasonCode = "killed_for_memory"
	WhyMemoryFull    ReasonCode = "memory_full"

	// Why connections end and logins are refused.
	WhySessionEndsNotice ReasonCode = "this_session_ends"
	WhyMachineLeaves     ReasonCode = "machine_leaves"
	WhyAccountRemoved    ReasonCode = "account_removed"
	WhyWebLoginEnded     ReasonCode = "web_login_ended"
	WhyGatewayStops      ReasonCode = "gateway_stops"
	WhyGatewayGone       ReasonCode = "gateway_gone"
	WhyLoginInvalid      ReasonCode = "login_invalid"
	WhyKeyRevoked        ReasonCode = "key_revoked"
	WhyCertRevoked       ReasonCode = "certificate_revoked"
	WhyAuthorityRevoked  ReasonCode = "authority_revoked"
	WhyAuthorityForeign  ReasonCode = "authority_not_trusted"
	WhyGaveUpWaiting     ReasonCode = "gave_up_waiting"
	WhyTabClosed         ReasonCode = "tab_closed"
	WhyWentAway          ReasonCode = "machine_went_away"
	WhyLoginKilled       ReasonCode = "login_killed"
	WhyLeavesIn          ReasonCode = "machine_leaves_in"
	WhyLeavesLater       ReasonCode = "machine_leaves_later"
	WhyLeavesUnused      ReasonCode = "machine_leaves_unused"
	WhyLoggedOut         ReasonCode = "logged_out"
	WhyLoggedOutAll      ReasonCode = "logged_out_everywhere"
	WhyLoggedInAnew      ReasonCode = "logged_in_anew"
	WhyEndedElsewhere    ReasonCode = "ended_elsewhere"
	WhyCodeTwice         ReasonCode = "code_shown_twice"
	WhyPasswordChanged   ReasonCode = "password_changed"
	WhyWrongPassword     ReasonCode = "wrong_password"
	WhyRefusedInBrowser  ReasonCode = "refused_in_browser"
	WhyStated            ReasonCode = "stated"

	// How apps come along and end.
	WhyAppReplaced    ReasonCode = "app_replaced"
	WhyAppUnwanted    ReasonCode = "app_unwanted"
	WhyAppStopped     ReasonCode = "app_stopped_by"
	WhyAppSlow        ReasonCode = "app_slow"
	WhyAppForeign     ReasonCode = "app_foreign_listener"
	WhyAppLoopback    ReasonCode = "app_loopback"
	WhyAppLoopbackFor ReasonCode = "app_loopback_for"
	WhyAppMute        ReasonCode = "app_mute"
	WhyAppAgain       ReasonCode = "app_again"
	WhyAppSelf        ReasonCode = "app_ended_itself"
	WhySessionEnded   ReasonCode = "session_ended"
	WhySessionEnds    ReasonCode = "session_ends"
	WhyAppBefore      ReasonCode = "app_before"
	WhyAppStarting    ReasonCode = "app_starting"
	WhyAppEnding      ReasonCode = "app_ending"
	WhyAppRuns        ReasonCode = "app_runs"
	WhyAppEnded       ReasonCode = "app_ended"
	WhyAppEndedExit   ReasonCode = "app_ended_exit"

	// What an administrator should look at.
	WhyPoolProblem    ReasonCode = "pool_problem"
	WhyMachineProblem ReasonCode = "machine_problem"
	WhyProviderSilent ReasonCode = "provider_silent"
	WhyStateFull      ReasonCode = "state_full"
	WhyHubFails       ReasonCode = "jupyterhub_fails"
	WhyClockAhead     ReasonCode = "clock_jumped_ahead"
	WhyClockBack      ReasonCode = "clock_jumped_back"

	// WhyRecorded is that of a row from before reasons were data.
	WhyRecorded ReasonCode = "recorded"
)

// sentence is how a code is written for people.
type sentence struct {
	pattern string // see Reason.sentence
	do      string // what to do about it; "" is nothing
}

const (
	doWait      = "Wait, or cancel what is not needed."
	doRaiseMax  = "Wait, raise the pool's max (`dspool pool resize`), or cancel what is not needed."
	doHosts     = "Wait for others to end, use a smaller size, or give the hosts more."
	doLogs      = "Read the task's output: `dspool job logs JOB`."
	doAppLog    = "Read what it said: ~/.local/state/dspool/APP.log."
	doServerLog = "Read the server's log; `dspool doctor` says what the host lacks."
	doMore      = "Ask for more, or use less: `dspool run --memory`; of a session the size of the machine decides."
	doCommand   = "Look at the command, the image and the PATH."
	doLogIn     = "Log in again."
	doPart      = "Part of a longer reason."
)

var sentences = map[ReasonCode]sentence{
	WhyJobWaits:   {"{job}[ of {user}] waits with {count?# task|# tasks} of {request}", ""},
	WhyUserWaits:  {"{user} waits to log in", ""},
	WhyUsersWait:  {"{user} and {count?# other|# others} wait to log in", ""},
	WhyKeepsMin:   {"pool {pool} keeps at least {count?# machine|# machines} (min)", "To keep fewer: `dspool pool resize POOL --min`."},
	WhyKeepsSpare: {"pool {pool} keeps {count?# machine|# machines} without claims (spare)", "To keep fewer: `dspool pool resize POOL --spare`."},

	WhyIdle:            {"idle for {time}, the limit is {within}", "To keep machines longer, raise the pool's idle_after, min or spare."},
	WhyIdleUnhealthy:   {"idle for {time}, the limit is {within}, and unhealthy[ ({because:; })]", ""},
	WhyOverMax:         {"pool {pool} has more machines than its max of {limit}", ""},
	WhyMakesRoomJob:    {"makes room for a machine of size {size} in pool {pool}, for which {job}[ of {user}] waits", ""},
	WhyMakesRoomUser:   {"makes room for a machine of size {size} in pool {pool}, for which {user} waits", ""},
	WhyNothingLeft:     {"{first}; nothing is left on it", ""},
	WhyDeadline:        {"{first}; its deadline has passed with {rest: and } on it", "Log in again for another machine; jobs that were lost say so."},
	WhyDrained:         {"drained", ""},
	WhyDrainedBy:       {"drained[ by {by}]", "To put it off: `dspool session keep`."},
	WhyRemovedBy:       {"removed[ by {by}]", ""},
	WhyPoolGone:        {"pool {pool} is no more", ""},
	WhyWasRoot:         {"somebody was root here, and nobody else gets it", ""},
	WhyLoadTasks:       {"{count?# task|# tasks}", doPart},
	WhyLoadSessions:    {"{count?# session|# sessions}", doPart},
	WhyVanished:        {"it vanished from its host", doServerLog},
	WhyEnded:           {"it ended[: {detail}]", doServerLog},
	WhyNotCreated:      {"it could not be created[: {detail}]", doServerLog},
	WhyNotJoined:       {"it did not join within {within}", doServerLog},
	WhyBeforeJoined:    {"{first}, before it joined", doServerLog},
	WhyRemovingFailed:  {"removing it failed {count?once|# times}[: {detail}]", doServerLog + " It is tried again."},
	WhyGoes:            {"its machine goes", ""},
	WhyMachineGone:     {"its machine {machine} is gone[: {because:; }]", "Submit it again, or log in again for another machine."},
	WhyUninstalled:     {"`dspool uninstall` removed it", ""},
	WhyUnknownToServer: {"the server does not know it any more", ""},

	WhyAgentSilent: {"its agent has not been heard for {within}", "It takes nothing new until it is heard. If it stays silent: `dspool machine remove`."},
	WhyInitSilent:  {"init does not answer", "`dspool machine remove` makes way for another."},
	WhyDiskSilent:  {"the disk of / does not answer[: {detail}]", doServerLog},
	WhyDiskFull:    {"the disk of / is {count} % full", "Remove what is not needed from /tmp, or drain the machine."},
	WhyMemoryLow:   {"{bytes} of its {capacity.memory} of memory are held by what has ended", "It goes when its users' last tasks and sessions on the machine end; until then the machine takes nothing new."},
	WhySSHDEnds:    {"sshd ends as soon as it is started[: {detail}]", "Look at the image's OpenSSH server."},

	WhyHasRoom:         {"machine {machine} has room", ""},
	WhyPlacedAhead:     {"placed ahead on machine {machine}, where tasks of this job take about {time}", ""},
	WhyWaitsForJob:     {"waits for {job}", ""},
	WhyMaxRunning:      {"{count} of at most {limit?# task|# tasks} run (max running)", "To run more at once, submit with a larger --max-running."},
	WhyMachineReserved: {"machine {machine} is reserved for {job}[ of {user}], which needs more room", doWait},
	WhyReservedFor:     {"machine {machine} is reserved for {job}[ of {user}]", doWait},
	WhyMachineKept:     {"machine {machine} is kept for {user}, who waits to log in", doWait},
	WhyMachineStarting: {"waits for {count?a machine that is|# machines that are} starting", ""},
	WhyRoomReserved:    {"waits for room on machine {machine}, which is reserved for it", doWait},
	WhyShortTasks:      {"waits for room on the machines where it runs: its tasks are short", ""},
	WhyFitsNoSize:      {"a task of {request} fits no size of pool {pool}", "Ask for less, or give the pool a larger size."},
	WhyFitsNotSize:     {"a task of {request} does not fit size {size} ({capacity})", "Ask for less, or name a larger size."},
	WhyWaitsForRoom:    {"waits for room", doWait},
	WhyJobWaitsForRoom: {"{job}[ of {user}] waits for room", ""},
	WhyBeingDrained:    {"machine {machine} is being drained", ""},
	WhyCordoned:        {"machine {machine} is cordoned", "`dspool machine uncordon` lets claims on it again."},
	WhyUnhealthy:       {"machine {machine} is unhealthy[ ({because:; })]", "`dspool machine show MACHINE`."},
	WhyNotStartedSoon:  {"machine {machine} did not start it within {within}", ""},
	WhyHeld:            {"no task can start: {because:; }; one is tried in {time}", "It goes on by itself once one has started."},
	WhyHeldTrying:      {"no task could start: {because:; }; one is tried first", "It goes on by itself once one has started."},
	WhyShareFull:       {"share {name} is full", "Remove files from it, or give it more room."},
	WhyShareFails:      {"share {name} cannot be used[: {detail}]", "Look at its file system on the host. " + doServerLog},
	WhyHostFails:       {"the host could not start it on machine {machine}[: {detail}]", doServerLog},

	WhyNoPool:         {"pool {pool} does not exist", "Name another pool: `dspool pool list`."},
	WhyNoSize:         {"pool {pool} has no size[ {size}]", "Name another size: `dspool pool show POOL`."},
	WhyImageBuilding:  {"image {name} is being built", "`dspool image list` shows how far it is."},
	WhyImageFailed:    {"image {name} could not be built[: {detail}]", "Correct the recipe or the host, then `dspool image build`."},
	WhyImageMissing:   {"image {name} is not built", "`dspool image build`."},
	WhyImageRemoved:   {"removed[ by {by}]", "`dspool image build` makes it again."},
	WhyBackoff:        {"creating machines failed: {because:; }; next try in {time}", doServerLog},
	WhyProbing:        {"creating machines failed: {because:; }; one machine is tried first", doServerLog},
	WhyPoolMax:        {"pool {pool} is at its max of {limit?# machine|# machines}[: {because:, }]", doRaiseMax},
	WhyPoolMaxBusy:    {"pool {pool} is at its max of {limit?# machine|# machines} and {count?it is|all are} busy", doRaiseMax},
	WhyPoolMaxPlaces:  {"pool {pool} is at its max of {limit?# machine|# machines} and every place is taken", doRaiseMax},
	WhyProviderMax:    {"the provider can have at most {limit?# machine|# machines}", doWait},
	WhyProviderKept:   {"the provider can have at most {limit?# machine|# machines}; the rest is kept for the min of other pools", doWait},
	WhyHostsTooSmall:  {"a machine of size {size} ({request}) is larger than the hosts ({capacity})", "Use a smaller size, or larger hosts."},
	WhyHostsCPUs:      {"the hosts have no room for another machine of size {size}: {used.cpus} of {capacity.cpus} cpus are taken", doHosts},
	WhyHostsMemory:    {"the hosts have no room for another machine of size {size}: {used.memory} of {capacity.memory} memory are taken", doHosts},
	WhyHostsGPUs:      {"the hosts have no room for another machine of size {size}: {used.gpus} of {capacity.gpus} gpus are taken", doHosts},
	WhyHostsKept:      {"the hosts have no room for another machine of size {size}: the rest is kept for the min of other pools", doHosts},
	WhyHostsPromised:  {"the hosts have no room for another machine of size {size}: the rest is kept for {user}, who waits for one of size {name}", doHosts},
	WhyCountBusy:      {"{count} busy", doPart},
	WhyCountOther:     {"{count} of another size", doPart},
	WhyCountUnfit:     {"{count} of a size that does not fit", doPart},
	WhyCountStarting:  {"{count} starting", doPart},
	WhyCountCordoned:  {"{count} cordoned", doPart},
	WhyCountDraining:  {"{count} draining", doPart},
	WhyCountUnhealthy: {"{count} unhealthy", doPart},
	WhyCountStopped:   {"{count} stopped", doPart},
	WhyCountGoing:     {"{count} being removed", doPart},

	WhySucceeded:        {"{count?its task|all # tasks} succeeded", ""},
	WhyTasksNot:         {"{first} of {limit} tasks[, {rest:, }]", "`dspool job tasks JOB` lists them with their reasons."},
	WhyCountFailed:      {"{count} failed", doPart},
	WhyCountLost:        {"{count} lost", doPart},
	WhyCountCancelled:   {"{count} cancelled", doPart},
	WhyExitCode:         {"exit code {count}[: {detail}]", doLogs},
	WhySignal:           {"ended by {name}[: {detail}]", doLogs},
	WhyOutOfMemory:      {"out of memory (limit {bytes})[: {detail}]", doMore},
	WhyOverTime:         {"time limit of {within} exceeded", "Submit it with a longer --time-limit."},
	WhyEndUnknown:       {"its end is not known[: {detail}]", ""},
	WhyStuck:            {"{first}; the kernel does not end {count} of its processes", "Look for a share that does not answer; replace the machine."},
	WhyShutDown:         {"the machine was shut down", "Submit it again."},
	WhyCancelledBy:      {"cancelled[ by {by}]", ""},
	WhyAfterEnded:       {"{job}, which it waits for, {name}", "Mend that job, then submit both again."},
	WhyUserRemoved:      {"user {user} was removed", ""},
	WhyRightsChanged:    {"the groups of {user} were changed[ by {by}], and it had the old ones", "Start it again: it gets the new ones."},
	WhyNeverStarted:     {"its machine reported success of a task that never started", "Look at the machine: its root does not tell the truth."},
	WhyGivenUp:          {"its machine gave it up: {first}", "Submit it again."},
	WhyNotSaid:          {"it did not say why", doPart},
	WhyWithoutJob:       {"the server named the attempt without its {job}", doServerLog},
	WhyTooLarge:         {"the task asks for {request} and the machine has {capacity}", "Ask for less."},
	WhyNotStarted:       {"it could not start[: {detail}]", doCommand},
	WhyNoCommand:        {"command {name quoted} does not exist on the machine", doCommand},
	WhyNoInterpreter:    {"the interpreter of command {name quoted} does not exist on the machine", "Look at its first line."},
	WhyNotExecutable:    {"command {name quoted} is not executable for the user", "`chmod +x`, or name its interpreter."},
	WhyNotProgram:       {"command {name quoted} is not a program", "A script begins with a line such as #!/bin/sh."},
	WhyArgumentsTooLong: {"command {name quoted} has too long arguments and environment", "Put them into a file."},

	WhyLooking:        {"looking for a machine", ""},
	WhyCreating:       {"a machine is being created", ""},
	WhyComing:         {"{machine} is starting", ""},
	WhyHasPlace:       {"machine {machine} has room: place {count} of {limit}", ""},
	WhyWaitsForTasks:  {"{first}; waits for tasks on machine {machine} to end", doWait},
	WhyWaitsForSize:   {"waits for a machine of size {size}; {first}", doWait},
	WhyPreparing:      {"preparing {machine}", ""},
	WhyConnecting:     {"connecting to {machine}", ""},
	WhyServerRestarts: {"the server restarts, please wait", ""},
	WhyOpen:           {"{machine}", ""},
	WhySessionIdle:    {"nobody was connected and nothing of it lived for {within}", "To keep one longer: `dspool session keep`, or leave something running."},
	WhyNobodyWaits:    {"nobody waits for it any more", ""},
	WhyBeginsAnew:     {"its machine is to go; it begins anew on the next", ""},
	WhyClosedBy:       {"closed[ by {by}]", ""},
	WhyClosed:         {"it was closed", ""},
	WhyNotOpened:      {"it could not be opened[: {detail}]", "Log in again; if it stays so, read the server's log."},
	WhyEndedByMachine: {"its machine ended it", doLogIn},
	WhyNoHub:          {"pool {pool} runs no JupyterHub any more", ""},

	WhyNothingRuns:   {"nothing runs", ""},
	WhyInput:         {"input on terminal {terminal}", ""},
	WhyUsesCPU:       {"{name} uses {count} % of a cpu", ""},
	WhyRunsInTmux:    {"{name} runs in tmux", ""},
	WhyRunsInScreen:  {"{name} runs in screen", ""},
	WhyStopped:       {"{name} is stopped on terminal {terminal}", ""},
	WhyRunsTerminal:  {"{name} runs on terminal {terminal}", ""},
	WhyRunsConnected: {"{name} runs on a connection", ""},
	WhyRunsBehind:    {"{name} runs in the background", ""},
	WhyRunsCell:      {"a kernel of {name} runs a cell[ since {since}]", ""},
	WhyMayRunCell:    {"a kernel of {name} may run a cell: its server does not answer", ""},
	WhyKilledSome:    {"[{first}; ]out of memory (limit {bytes}): the kernel killed {count?a process|# processes}", doMore},
	WhyKilledMemory:  {"killed: out of memory (limit {bytes})", doMore},
	WhyMemoryFull:    {"the memory of this session is full (limit {bytes}): this login has {capacity.memory} of its own, to remove files from /dev/shm and end what runs", "Remove what is not needed from /dev/shm, end what runs, and log in again."},
	WhyKilledTasks:   {"[{first}; ]out of memory (limit {bytes}): the kernel killed some of {count?a task|# tasks} of {limit}", doMore},

	WhySessionEndsNotice: {"this session ends[: {first}]", doLogIn},
	WhyMachineLeaves:     {"{machine} is being removed: {first}; your files are safe, log in again for another machine", doLogIn},
	WhyAccountRemoved:    {"this account has been removed", ""},
	WhyWebLoginEnded:     {"this browser's login at the portal has ended", doLogIn},
	WhyGatewayStops:      {"the gateway stops", doLogIn},
	WhyGatewayGone:       {"its gateway is gone", doLogIn},
	WhyLoginInvalid:      {"your login is no longer valid: {first}", "Ask an administrator for a new key or certificate."},
	WhyKeyRevoked:        {"the key is revoked", "Use another key."},
	WhyCertRevoked:       {"certificate {name} is revoked", "Get a new one: `dspool login`."},
	WhyAuthorityRevoked:  {"the certificate's authority is revoked", "Get a certificate of another authority."},
	WhyAuthorityForeign:  {"the certificate's authority is not trusted", "Get a certificate of a trusted authority."},
	WhyGaveUpWaiting:     {"gave up waiting", ""},
	WhyTabClosed:         {"the browser's last tab of it was closed", ""},
	WhyWentAway:          {"its machine went away", doLogIn},
	WhyLoginKilled:       {"this login was ended on its machine[: {first}]", doLogIn},
	WhyLeavesIn:          {"{machine} will be removed in at most {within} ({first}). To put it off: dspool session keep", "`dspool session keep`."},
	WhyLeavesLater:       {"{machine} will be removed in more than a day ({first}). To put it off: dspool session keep", "`dspool session keep`."},
	WhyLeavesUnused:      {"{machine} will be removed once nobody uses it ({first})", ""},
	WhyLoggedOut:         {"logged out", doLogIn},
	WhyLoggedOutAll:      {"logged out everywhere", doLogIn},
	WhyLoggedInAnew:      {"logged in anew", ""},
	WhyEndedElsewhere:    {"ended from another browser", doLogIn},
	WhyCodeTwice:         {"JupyterHub was shown a code of it twice", "Log in again; somebody else may have seen an address of yours."},
	WhyPasswordChanged:   {"the password was changed", doLogIn},
	WhyWrongPassword:     {"wrong password", ""},
	WhyRefusedInBrowser:  {"refused in the browser", ""},
	WhyStated:            {"{detail}", ""},

	WhyAppReplaced:    {"another was started in its place", ""},
	WhyAppUnwanted:    {"it was stopped", ""},
	WhyAppStopped:     {"stopped[ by {by}]", ""},
	WhyAppSlow:        {"it did not listen on its port within {within}", doAppLog},
	WhyAppForeign:     {"somebody else's process (user id {count}) listens on its port {port}", "Start it again: it gets another port."},
	WhyAppLoopback:    {"it listens on port {port} of a loopback address only, where nobody reaches it; it should on 0.0.0.0", "Have it listen on 0.0.0.0."},
	WhyAppLoopbackFor: {"it listened on port {port} of a loopback address only for {within}", "Have it listen on 0.0.0.0."},
	WhyAppMute:        {"nothing listened on its port {port} for {within}", doAppLog},
	WhyAppAgain:       {"{first}; it is started again", doAppLog},
	WhyAppSelf:        {"it ended by itself", doAppLog},
	WhySessionEnded:   {"its session ended[: {first}]", ""},
	WhySessionEnds:    {"its session ends[: {first}]", ""},
	WhyAppBefore:      {"ending the {name} before", ""},
	WhyAppStarting:    {"starting {name} on {machine}", ""},
	WhyAppEnding:      {"ending {name}", ""},
	WhyAppRuns:        {"{name} runs on {machine}", ""},
	WhyAppEnded:       {"{name} has ended[: {first}]", doAppLog},
	WhyAppEndedExit:   {"{name} has ended with exit code {count}[: {first}]", doAppLog},

	WhyPoolProblem:    {"pool {pool}: {first}", "`dspool pool show POOL`."},
	WhyMachineProblem: {"machine {machine} is unhealthy[: {first}]", "`dspool machine show MACHINE`."},
	WhyHubFails:       {"JupyterHub cannot be run[: {detail}]", doServerLog},
	WhyStateFull:      {"the file system of the state is full: {bytes} are left, and the server lives on its reserve", "Remove files from it; shares on a file system of their own cannot do that."},
	WhyProviderSilent: {"the provider cannot be asked for its machines, and until it can nothing is concluded from what it said before[: {detail}]", doServerLog},

	WhyClockAhead: {"the host's clock jumped ahead by {time}, at {since}", "Keep it right by NTP. Bills and what lasts are right all the same; a host that slept jumps too."},
	WhyClockBack:  {"the host's clock jumped back by {time}, at {since}", "Keep it right by NTP. Bills and what lasts are right all the same."},

	WhyRecorded: {"recorded by an earlier version[: {detail}]", ""},
}
