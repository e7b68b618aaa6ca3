package privatepg

import "syscall"

// endWithParent makes the kernel shut PostgreSQL down ("immediate") when this process is killed
// before it can call Stop.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }
