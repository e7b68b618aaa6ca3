package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// ownCPU returns the CPU time of this process, in user mode and in the kernel.
func ownCPU() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// processCPU returns the CPU time of another process from the kernel's clock of that process
// (clock_getcpuclockid(3)). /proc/PID/stat has the same time in steps of 10 ms, which is too coarse
// for a short round.
func processCPU(pid int) (time.Duration, error) {
	const wholeProcess = 2 // CPUCLOCK_SCHED, without the bit that would mean one thread
	clock := ^pid<<3 | wholeProcess
	var spent syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock),
		uintptr(unsafe.Pointer(&spent)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("the clock of process %d: %w", pid, errno)
	}
	return time.Duration(spent.Nano()), nil
}

// userCPU returns the CPU time of a process in user mode. The kernel samples it in steps of 10 ms,
// so it is accurate over seconds only.
func userCPU(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 12 {
		return 0, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	ticks, err := strconv.ParseInt(fields[11], 10, 64)
	return time.Duration(ticks) * time.Second / ticksASecond, err
}

const ticksASecond = 100 // USER_HZ, the same on every Linux that Go runs on

// treeCPU returns the CPU time of a process and its children, also of those that have ended.
func treeCPU(parent int) (time.Duration, error) {
	total, err := processCPU(parent)
	if err != nil {
		return 0, err
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		pid, ppid, ended, err := readStat(string(stat))
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		if pid == parent {
			total += ended
		}
		if ppid == parent {
			spent, err := processCPU(pid)
			if err != nil && !errors.Is(err, syscall.EINVAL) { // EINVAL: it has ended meanwhile
				return 0, err
			}
			total += spent
		}
	}
	return total, nil
}

// readStat reads from /proc/PID/stat (proc_pid_stat(5)): the process, its parent, and the CPU time
// of its children that have ended.
func readStat(stat string) (pid, ppid int, ended time.Duration, err error) {
	// The command's name is in parentheses, and may contain any character.
	before, _, _ := strings.Cut(stat, " ")
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 15 {
		return 0, 0, 0, errors.New("too short")
	}
	pid, err1 := strconv.Atoi(before)
	ppid, err2 := strconv.Atoi(fields[1])
	user, err3 := strconv.ParseInt(fields[13], 10, 64)
	system, err4 := strconv.ParseInt(fields[14], 10, 64)
	return pid, ppid, time.Duration(user+system) * time.Second / ticksASecond,
		errors.Join(err1, err2, err3, err4)
}

// residentMemory returns the resident memory of a process, in bytes.
func residentMemory(pid int) (int64, error) { return procMemory(pid, "smaps_rollup", "Rss") }

// roughResidentMemory is cheaper than residentMemory. It leaves out what each thread has not
// reported to the kernel yet.
func roughResidentMemory(pid int) (int64, error) { return procMemory(pid, "status", "VmRSS") }

// peakMemory returns the most resident memory of a process since its start or resetPeakMemory, in
// bytes.
func peakMemory(pid int) (int64, error) { return procMemory(pid, "status", "VmHWM") }

// procMemory returns a field of a file in /proc/PID, in bytes.
func procMemory(pid int, file, field string) (int64, error) {
	path := fmt.Sprintf("/proc/%d/%s", pid, file)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			kilobytes := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB"))
			n, err := strconv.ParseInt(kilobytes, 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, field)
}

// resetPeakMemory lowers peakMemory to the present resident memory.
func resetPeakMemory(pid int) error {
	const resetPeak = "5" // proc_pid_clear_refs(5)
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte(resetPeak), 0o600)
}

// raiseFileLimit lets this process, and those that it starts, open so many files each.
func raiseFileLimit(need uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	if limit.Cur >= need {
		return nil
	}
	limit.Cur, limit.Max = need, max(need, limit.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf(
			"%d open files are needed, which is more than this user may have (ulimit -n): %w", need,
			err)
	}
	return nil
}
