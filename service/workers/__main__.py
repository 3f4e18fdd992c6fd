from service.workers.worker import main

main()
