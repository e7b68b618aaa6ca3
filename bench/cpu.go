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

// ownCPU is the time that this process has spent on the processors, in user mode and in the kernel.
func ownCPU() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// processCPU is the time that another process has spent on the processors, by the kernel's own
// clock of that process (clock_getcpuclockid(3)). /proc/PID/stat has the same time, but in steps of
// 10 ms, which a short round would drown in.
func processCPU(pid int) (time.Duration, error) {
	const wholeProcess = 2 // CPUCLOCK_SCHED, without the bit that would mean one thread
	clock := ^pid<<3 | wholeProcess
	var spent syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&spent)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("the clock of process %d: %w", pid, errno)
	}
	return time.Duration(spent.Nano()), nil
}

// userCPU is how much of a process's time it has spent in user mode. The kernel has it in steps of
// 10 ms, and as a share that it has looked at with each of its ticks: it is worth something over
// seconds.
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

// treeCPU is processCPU of a process and its children, those included that have ended since.
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
			continue // it has ended since
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
			if err != nil && !errors.Is(err, syscall.EINVAL) { // EINVAL: it has ended since
				return 0, err
			}
			total += spent
		}
	}
	return total, nil
}

// readStat reads what is needed of /proc/PID/stat (proc_pid_stat(5)): who it is, whose child, and
// the time on the processors of its children that have ended.
func readStat(stat string) (pid, ppid int, ended time.Duration, err error) {
	// The command's name stands in parentheses, and may have any character in it.
	before, _, _ := strings.Cut(stat, " ")
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 15 {
		return 0, 0, 0, errors.New("too short")
	}
	pid, err1 := strconv.Atoi(before)
	ppid, err2 := strconv.Atoi(fields[1])
	user, err3 := strconv.ParseInt(fields[13], 10, 64)
	system, err4 := strconv.ParseInt(fields[14], 10, 64)
	return pid, ppid, time.Duration(user+system) * time.Second / ticksASecond, errors.Join(err1, err2, err3, err4)
}

// residentMemory is how much of the machine's memory a process holds, in bytes.
func residentMemory(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if kilobytes, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kilobytes), "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}
